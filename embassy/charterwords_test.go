package embassy_test

import (
	"slices"
	"testing"

	"embassy/crypto"
	"embassy/embassy"
	"embassy/embassy/format"
)

// A grant that ends is named by the fingerprint that it began with, and a quota
// is written as people give it.
func TestChangesNameWhatPeopleCompared(t *testing.T) {
	signer := crypto.NewRoot().Signer().Verifier().Bytes()
	charter := func(quota uint64, recipients ...format.RecipientKey) *format.Charter {
		return &format.Charter{
			RootSigner:   signer,
			Compartments: []format.CharterCompartment{{ID: format.ID{1}, Epoch: 2, Recipients: recipients}},
			Agents:       []format.CharterAgent{{ID: format.ID{2}, Status: format.AgentActive, Quota: quota}},
		}
	}
	granted := charter(0, format.RecipientKey{Key: []byte("key"), Partner: "3eqt-lxfp", Since: 2})
	want := []string{
		"compartment 01000000000000000000000000000000: no longer sealed to a partner, fingerprint 3eqt-lxfp",
		"agent 02000000000000000000000000000000 may take 500GiB on a target",
	}
	if got := embassy.Changes(granted, charter(500<<30), nil); !slices.Equal(got, want) {
		t.Fatalf("%q", got)
	}
}
