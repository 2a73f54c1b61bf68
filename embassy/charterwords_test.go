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

// A machine often gets the name of the one whose place it takes.
func TestNamesOfTwoAgents(t *testing.T) {
	lost, next, other := format.ID{1}, format.ID{2}, format.ID{3}
	names := embassy.NameBook{lost: "archive", next: "archive", other: "front"}
	for id, want := range map[format.ID]string{
		lost: "archive (01000000)", next: "archive (02000000)", other: "front", {4}: format.ID{4}.String(),
	} {
		if got := names.Of(id); got != want {
			t.Errorf("agent %s is called %q, want %q", id, got, want)
		}
	}
}
