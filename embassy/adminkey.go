package embassy

import (
	"encoding/hex"
	"fmt"
	"os"
	"path/filepath"
	"strings"

	"embassy/crypto"
	"embassy/embassy/format"
)

// adminKeyLine begins the one line of an administrator's key file.
const adminKeyLine = "embassy administrator key v1 "

// NewAdminKey makes an administrator's key in a file that does not exist, and
// returns its public half.
func NewAdminKey(path string) (format.AdministratorKey, error) {
	if _, err := os.Lstat(path); err == nil {
		return format.AdministratorKey{}, fmt.Errorf("%s exists: name another file", path)
	}
	key := crypto.NewSigner()
	raw := key.Bytes()
	defer clear(raw)
	text := append(hex.AppendEncode([]byte(adminKeyLine), raw), '\n')
	defer clear(text)
	if err := writeFile(filepath.Dir(path), path, text); err != nil {
		return format.AdministratorKey{}, fmt.Errorf("write the administrator's key: %w", err)
	}
	return format.AdministratorKey{Verifier: key.Verifier()}, nil
}

// OpenAdminKey reads what NewAdminKey wrote; a file that others can read is
// refused.
func OpenAdminKey(path string) (*crypto.Signer, error) {
	if err := CheckPrivate(path); err != nil {
		return nil, fmt.Errorf("administrator's key: %w", err)
	}
	text, err := os.ReadFile(path)
	if err != nil {
		return nil, fmt.Errorf("administrator's key: %w", err)
	}
	defer clear(text)
	digits, ok := strings.CutPrefix(strings.TrimSpace(string(text)), adminKeyLine)
	raw, err := hex.DecodeString(digits)
	defer clear(raw)
	if !ok || err != nil {
		return nil, fmt.Errorf("%s: %w: it is no administrator's key", path, format.ErrMalformed)
	}
	key, err := crypto.ParseSigner(raw)
	if err != nil {
		return nil, fmt.Errorf("%s: %w: it is no administrator's key", path, format.ErrMalformed)
	}
	return key, nil
}
