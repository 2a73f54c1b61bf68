package crypto

import (
	"encoding/binary"
	"fmt"
)

// AgentKey is what an agent is: it signs ledger entries, and the charter seals
// writer secrets to it.
type AgentKey struct {
	redacted
	Signer   *Signer
	Identity *Identity
}

const identitySize = 32

// NewAgentKey returns a random agent key.
func NewAgentKey() (*AgentKey, error) {
	i, err := NewIdentity()
	if err != nil {
		return nil, err
	}
	return &AgentKey{Signer: NewSigner(), Identity: i}, nil
}

// ParseAgentKey reads what AgentKey.Marshal returned.
func ParseAgentKey(b []byte) (*AgentKey, error) {
	if want := 2 + SignerSize + identitySize; len(b) != want {
		return nil, fmt.Errorf("parse agent key: %d bytes, want %d", len(b), want)
	}
	if s := Suite(binary.BigEndian.Uint16(b)); s != SuiteV1 {
		return nil, fmt.Errorf("parse agent key: unknown suite %d", s)
	}
	s, err := ParseSigner(b[2 : 2+SignerSize])
	if err != nil {
		return nil, fmt.Errorf("parse agent key: %w", err)
	}
	i, err := ParseIdentity(b[2+SignerSize:])
	if err != nil {
		return nil, fmt.Errorf("parse agent key: %w", err)
	}
	return &AgentKey{Signer: s, Identity: i}, nil
}

// Marshal returns u16 suite ‖ signer ‖ identity, 68 bytes, which the caller
// owns and should clear.
func (k *AgentKey) Marshal() []byte {
	b := binary.BigEndian.AppendUint16(nil, uint16(SuiteV1))
	b = append(b, k.Signer.Bytes()...)
	return append(b, k.Identity.Bytes()...)
}

// ID returns the agent's pseudonym.
func (k *AgentKey) ID() ID {
	return AgentID(k.Signer.Verifier().Bytes(), k.Identity.Recipient().Bytes())
}

// AgentID returns the pseudonym of the agent with these public keys, as their
// Bytes methods return them: the first 16 bytes of SHA-256("embassy/v1 agent" ‖
// 0x00 ‖ verifier ‖ recipient).
func AgentID(verifier, recipient []byte) ID {
	return publicID("agent", verifier, recipient)
}

// AgentFingerprint is what people compare when an agent is enrolled: the
// Fingerprint of both of its public keys.
func AgentFingerprint(verifier, recipient []byte) string { return Fingerprint(verifier, recipient) }
