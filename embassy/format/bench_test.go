package format_test

import (
	"testing"

	"embassy/embassy/format"
)

func BenchmarkParseNodes(b *testing.B) {
	var list []byte
	for i := range 1000 {
		n := pipeNode(i)
		n.Type, n.Content = format.File, &format.Content{Size: 1000, Chunks: make([]byte, 32)}
		list = append(list, mustCBOR(n)...)
	}
	b.SetBytes(int64(len(list)))
	for b.Loop() {
		if _, err := format.ParseNodes(list, nil); err != nil {
			b.Fatal(err)
		}
	}
}
