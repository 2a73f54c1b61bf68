// Package kit makes recovery kits for tests that open one many times: to try a
// passphrase costs a microsecond, where a kit of init's own costs a second of
// the processor. What init makes itself, other tests judge.
package kit

import (
	"time"

	"embassy/crypto"
	"embassy/embassy"
	"embassy/embassy/format"
)

// Write writes the kit of a new root, with which init goes on, to a file that
// does not exist. The kit knows these targets. The caller wipes the root.
func Write(path, nation string, passphrase []byte, known ...format.TargetHint) (*crypto.Root, error) {
	root := crypto.NewRoot()
	id := format.NationID(root.Signer().Verifier(), root.Identity().Recipient())
	kit := format.Kit{
		Version: format.Version, Nation: id, Created: time.Now().UnixNano(),
		RootSigner: root.Signer().Verifier().Bytes(), RootRecipient: root.Identity().Recipient().Bytes(),
	}
	cheap := crypto.WrapParams{Time: 1, MemoryKiB: 64, Threads: 1}
	var err error
	if kit.Wrapped, err = cheap.WrapRoot(root, passphrase, crypto.Context{Type: "recovery kit", Nation: id}); err == nil {
		err = kit.SetHints(format.Hints{Time: time.Now().UnixNano(), Charter: 1, Targets: known})
	}
	if err == nil {
		err = embassy.WriteKit(path, nation, &kit)
	}
	if err != nil {
		root.Wipe()
		return nil, err
	}
	return root, nil
}
