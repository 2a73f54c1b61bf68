package embassy

import (
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"net"

	"embassy/embassy/format"
)

// digest reads size bytes of an object, keeping none, and returns their hash.
// To be denied does not open the breaker.
func (m *Member) digest(ctx context.Context, name string, size int64, arrived func(n int)) (sum format.Hash, err error) {
	sum, _, err = m.digestParts(ctx, name, size, nil, arrived)
	return sum, err
}

// digestParts is digest that keeps some parts of what it reads.
func (m *Member) digestParts(ctx context.Context, name string, size int64, parts []part, arrived func(n int)) (sum format.Hash, kept [][]byte, err error) {
	err = m.attempt(ctx, settled, func(ctx context.Context) error {
		var got format.Hash // of this attempt, which may hang and go on
		cut := &cutter{parts: parts, kept: make([][]byte, len(parts))}
		err := m.bounded(ctx, transferTime(int(size)), func(ctx context.Context) error {
			r, err := m.Target.Get(ctx, name, 0, size)
			if err != nil {
				return err
			}
			defer r.Close()
			h := sha256.New()
			n, err := io.CopyBuffer(io.MultiWriter(h, cut), io.LimitReader(r, size), make([]byte, min(size, copyPiece)))
			arrived(int(n))
			if err == nil && n < size {
				err = io.ErrUnexpectedEOF
			}
			if errors.Is(err, io.ErrUnexpectedEOF) {
				return fmt.Errorf("shorter than %d bytes: %w", size, err)
			}
			if err == nil {
				h.Sum(got[:0])
			}
			return err
		})
		var slow net.Error
		if errors.As(err, &slow) && slow.Timeout() && ctx.Err() == nil {
			m.trip(err) // repeating would cost as long again
		}
		if err == nil {
			sum, kept = got, cut.kept
		}
		return err
	})
	return sum, kept, err
}

// part is so many bytes of an object, from an offset on.
type part struct{ at, n uint64 }

// cutter keeps parts of what is written to it.
type cutter struct {
	parts []part
	kept  [][]byte // of each
	done  uint64   // bytes written
}

func (c *cutter) Write(b []byte) (int, error) {
	for i, p := range c.parts {
		from, to := max(p.at, c.done), min(p.at+p.n, c.done+uint64(len(b)))
		if from < to {
			c.kept[i] = append(c.kept[i], b[from-c.done:to-c.done]...)
		}
	}
	c.done += uint64(len(b))
	return len(b), nil
}
