package embassy

import (
	"encoding/hex"
	"errors"
	"fmt"
	"io/fs"
	"strings"

	"embassy/crypto"
	"embassy/embassy/format"
)

// adminKeyLine begins the one line of an administrator's key file.
const adminKeyLine = "embassy administrator key v1 "

const maxAdminKey = 4 << 10 // bytes of its file

// NewAdminKey makes an administrator's key in a file that does not exist, and
// returns its public half.
func NewAdminKey(path string) (format.AdministratorKey, error) {
	key := crypto.NewSigner()
	raw := key.Bytes()
	defer clear(raw)
	text := append(hex.AppendEncode([]byte(adminKeyLine), raw), '\n')
	defer clear(text)
	err := WriteSecret(path, text)
	if errors.Is(err, fs.ErrExist) {
		return format.AdministratorKey{}, fmt.Errorf("%s exists: name another file", path)
	}
	if err != nil {
		return format.AdministratorKey{}, fmt.Errorf("write the administrator's key: %w", err)
	}
	return format.AdministratorKey{Verifier: key.Verifier()}, nil
}

// OpenAdminKey reads what NewAdminKey wrote; a file that others can read is
// refused.
func OpenAdminKey(path string) (*crypto.Signer, error) {
	text, err := readSecret(path, maxAdminKey)
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
