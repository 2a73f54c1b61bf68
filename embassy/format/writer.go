package format

import (
	"embassy/chunk"
	"embassy/crypto"
)

// Writer holds what a compartment's writer secret of one epoch opens: chunk
// ids, cut points, pack directories, snapshot summaries. It opens no chunk.
type Writer struct {
	Nation, Compartment ID
	Epoch               uint32

	secret, index, summary *crypto.Secret
}

// NewWriter derives the keys. It keeps the secret.
func NewWriter(nation, compartment ID, epoch uint32, secret *crypto.Secret) *Writer {
	w := &Writer{Nation: nation, Compartment: compartment, Epoch: epoch, secret: secret}
	w.index = w.derive(labelIndexKey)
	w.summary = w.derive(labelSummaryKey)
	return w
}

func (w *Writer) derive(label string) *crypto.Secret {
	return w.secret.Derive(label, Scope{Nation: w.Nation, Compartment: w.Compartment, Epoch: w.Epoch}.context(label))
}

// Hasher returns a new hasher of chunk ids; not for concurrent use.
func (w *Writer) Hasher() *chunk.Hasher {
	return chunk.NewHasher(w.derive(labelIDKey).Bytes())
}

// Polynomial returns the compartment's cut points.
func (w *Writer) Polynomial() (chunk.Polynomial, error) {
	return chunk.DerivePolynomial(w.derive(labelPolynomial).Bytes())
}

// TargetName is the pseudonym of a target's name in ledger entries.
func (w *Writer) TargetName(name string) [8]byte {
	id := chunk.NewHasher(w.derive(labelTargetKey).Bytes()).ID([]byte(name))
	return [8]byte(id[:8])
}

// DatasetName is the pseudonym of a dataset's name in orders.
func (w *Writer) DatasetName(name string) [8]byte {
	id := chunk.NewHasher(w.derive(labelDatasetKey).Bytes()).ID([]byte(name))
	return [8]byte(id[:8])
}

// Secret returns the writer secret, to be sealed to an agent.
func (w *Writer) Secret() *crypto.Secret { return w.secret }
