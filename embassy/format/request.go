package format

import (
	"encoding/base64"
	"fmt"
	"slices"
	"strings"
	"time"

	"embassy/crypto"
)

const (
	requestMagic  = "EMBAREQ1"
	maxNameLength = 255 // bytes of a name in a request
	maxWishes     = 1 << 10
)

// Request asks a nation to enrol an agent. It holds public keys, and names in
// the clear: it goes from hand to hand, and never onto a target.
type Request struct {
	Version      uint8    `cbor:"1,keyasint"`
	Nation       ID       `cbor:"2,keyasint"`
	Time         int64    `cbor:"3,keyasint"` // unix nanoseconds
	Signer       []byte   `cbor:"4,keyasint"` // crypto.Verifier of the agent
	Recipient    []byte   `cbor:"5,keyasint"` // crypto.Recipient of the agent
	Name         string   `cbor:"6,keyasint"` // of the agent, for people
	Compartments []string `cbor:"7,keyasint"` // that it wishes to write, by name
	Datasets     []Wish   `cbor:"8,keyasint"`
}

// Wish is a dataset that an agent wishes to write.
type Wish struct {
	Name        string `cbor:"1,keyasint"`
	Compartment string `cbor:"2,keyasint"` // by name
	Priority    int    `cbor:"3,keyasint"`
}

// ID returns the pseudonym that the agent will have.
func (r *Request) ID() ID { return ID(crypto.AgentID(r.Signer, r.Recipient)) }

// Fingerprint is what both sides compare.
func (r *Request) Fingerprint() string { return crypto.AgentFingerprint(r.Signer, r.Recipient) }

func (r *Request) context() crypto.Context {
	return Scope{Nation: r.Nation, Agent: r.ID()}.context(typeRequest)
}

// requestArmor is the block of a request.
var requestArmor = armor{
	what: "agent request", block: "EMBASSY AGENT REQUEST", advice: "have it sent again", digits: 60, shown: 4,
	encode: base64.StdEncoding.EncodeToString, decode: base64.StdEncoding.Strict().DecodeString,
}

// Text signs the request with the agent's key, which proves that who asks has
// it, and prints it: lines for people, then its block.
func (r Request) Text(key *crypto.AgentKey, nationName string) (string, error) {
	r.Version, r.Signer, r.Recipient = Version, key.Signer.Verifier().Bytes(), key.Identity.Recipient().Bytes()
	if err := r.check(); err != nil {
		return "", err
	}
	body, err := encodeRecord(r)
	if err != nil {
		return "", fmt.Errorf("agent request: %w", err)
	}
	var b strings.Builder
	fmt.Fprintf(&b, "EMBASSY AGENT REQUEST to %s\n\n", nationName)
	fmt.Fprintf(&b, "Made:        %s\n", time.Unix(0, r.Time).UTC().Format(time.RFC3339))
	fmt.Fprintf(&b, "Nation:      %s\n", r.Nation)
	fmt.Fprintf(&b, "Agent:       %s (%s)\n", r.ID(), r.Name)
	fmt.Fprintf(&b, "Fingerprint: %s\n\n", r.Fingerprint())
	b.WriteString("It holds no secret, but the names of compartments and datasets in the clear.\n" +
		"Bring it to who may enrol agents, and compare the fingerprint by phone:\n\n" +
		"  embassy agent approve THIS-FILE\n\n")
	requestArmor.print(&b, sealSigned(requestMagic, body, r.context(), key.Signer))
	return b.String(), nil
}

// ParseRequest reads what Text printed, and verifies that the agent's own key
// signed it. It proves nothing of who the agent is: people compare Fingerprint.
func ParseRequest(text []byte) (*Request, error) {
	if len(text) > MaxRequestSize {
		return nil, fmt.Errorf("%w: agent request of %d bytes", ErrMalformed, len(text))
	}
	object, err := requestArmor.parse(text)
	if err != nil {
		return nil, err
	}
	s, err := parseSigned(requestMagic, MaxRequestSize, object)
	if err != nil {
		return nil, fmt.Errorf("agent request: %w", err)
	}
	r := new(Request)
	if err := decode(s.Body, r); err != nil {
		return nil, fmt.Errorf("agent request: %w", err)
	}
	if err := r.check(); err != nil {
		return nil, err
	}
	v, err := crypto.ParseVerifier(r.Signer)
	if err != nil {
		return nil, fmt.Errorf("%w: agent request: %v", ErrMalformed, err)
	}
	if err := s.verify(r.context(), v); err != nil {
		return nil, fmt.Errorf("agent request: it was not signed by the key that it names: %w", err)
	}
	return r, nil
}

func (r *Request) check() error {
	if r.Version != Version {
		return fmt.Errorf("%w: agent request of version %d", ErrMalformed, r.Version)
	}
	if _, err := crypto.ParseRecipient(r.Recipient); err != nil {
		return fmt.Errorf("%w: agent request: %v", ErrMalformed, err)
	}
	names := append([]string{r.Name}, r.Compartments...)
	for _, d := range r.Datasets {
		names = append(names, d.Name)
		if !slices.Contains(r.Compartments, d.Compartment) {
			return fmt.Errorf("%w: agent request: dataset %q lies in no compartment that it names", ErrMalformed, d.Name)
		}
	}
	for _, n := range names {
		if n == "" || len(n) > maxNameLength {
			return fmt.Errorf("%w: agent request: a name of %d bytes", ErrMalformed, len(n))
		}
	}
	if len(r.Compartments) == 0 || len(names) > maxWishes {
		return fmt.Errorf("%w: agent request: %d compartments, %d datasets", ErrMalformed, len(r.Compartments), len(r.Datasets))
	}
	return nil
}
