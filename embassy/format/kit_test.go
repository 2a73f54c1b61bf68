package format_test

import (
	"encoding/base64"
	"encoding/hex"
	"strings"
)

// kitText prints any bytes as the block of a kit.
func kitText(body []byte) string {
	var b strings.Builder
	b.WriteString("-----BEGIN EMBASSY RECOVERY KIT-----\n")
	text := base64.StdEncoding.EncodeToString(body)
	for len(text) > 0 {
		line := text[:min(60, len(text))]
		b.WriteString(hex.EncodeToString(hashOf([]byte(line))[:2]) + " " + line + "\n")
		text = text[len(line):]
	}
	b.WriteString("-----END EMBASSY RECOVERY KIT-----\n")
	return b.String()
}
