package bench_test

import (
	"bytes"
	"crypto/rand"
	"crypto/sha256"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"time"

	"embassy/chunk"
	"embassy/crypto"
)

// sampleSize bounds what is read of one kind of data, in bytes.
const sampleSize = 64 << 20

// floor is how many seconds one core needs for nothing but the work on the
// bytes: cutting, identifying, compressing, sealing and naming. No tool that
// does all of it is faster than that over the number of cores.
func floor(src string) (seconds float64, err error) {
	var kinds []kind
	for _, name := range []string{"register.csv", "random.bin"} {
		k, err := large(filepath.Join(src, name))
		if err != nil {
			return 0, err
		}
		kinds = append(kinds, k)
	}
	k, err := small(filepath.Join(src, "files"))
	if err != nil {
		return 0, err
	}
	for _, k := range append(kinds, k) {
		one, err := k.work()
		if err != nil {
			return 0, err
		}
		seconds += one
	}
	return seconds, nil
}

// kind is data of one sort.
type kind struct {
	chunks [][]byte      // a sample, in pieces as they are stored
	cut    time.Duration // that cutting the sample took; 0: it needs none
	size   int64         // bytes of all of it
}

// large cuts a sample of a file. One that is not there is no data.
func large(path string) (k kind, err error) {
	f, err := os.Open(path)
	if os.IsNotExist(err) {
		return k, nil
	}
	if err != nil {
		return k, err
	}
	defer f.Close()
	fi, err := f.Stat()
	if err != nil {
		return k, err
	}
	k.size = fi.Size()
	data, err := io.ReadAll(io.LimitReader(f, sampleSize))
	if err != nil {
		return k, err
	}
	secret := make([]byte, 32)
	rand.Read(secret)
	polynomial, err := chunk.DerivePolynomial(secret)
	if err != nil {
		return k, err
	}
	buf := make([]byte, chunk.MaxSize)
	k.cut, err = fastest(func() error {
		k.chunks = nil
		s := chunk.NewSplitter(polynomial)
		s.Reset(bytes.NewReader(data))
		for at := 0; ; {
			piece, err := s.Next(buf)
			if err == io.EOF {
				return nil
			}
			if err != nil {
				return err
			}
			k.chunks = append(k.chunks, data[at:at+len(piece)])
			at += len(piece)
		}
	})
	return k, err
}

// small reads a sample of the files below a folder.
func small(folder string) (k kind, err error) {
	sampled := 0
	err = filepath.WalkDir(folder, func(path string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() {
			return err
		}
		fi, err := d.Info()
		if err != nil {
			return err
		}
		if k.size += fi.Size(); sampled < sampleSize {
			data, err := os.ReadFile(path)
			if err != nil {
				return err
			}
			k.chunks = append(k.chunks, data)
			sampled += len(data)
		}
		return nil
	})
	return k, err
}

// work is how many seconds one core needs for all data of the kind.
func (k kind) work() (float64, error) {
	sampled := 0
	for _, c := range k.chunks {
		sampled += len(c)
	}
	if sampled == 0 {
		return 0, nil
	}
	hasher, encoder := chunk.NewHasher(make([]byte, 32)), chunk.NewEncoder()
	key, _, _, err := crypto.NewSealKey(crypto.NewSecret(), crypto.Context{})
	if err != nil {
		return 0, err
	}
	buf := make([]byte, 0, chunk.MaxEncodedSize(chunk.MaxSize)+crypto.TagSize)
	rest, err := fastest(func() error {
		for i, c := range k.chunks {
			hasher.ID(c)
			encoded := encoder.Encode(buf, c)
			sealed := key.Seal(encoded[:0], uint64(i), encoded, nil)
			sha256.Sum256(sealed)
		}
		return nil
	})
	return (k.cut + rest).Seconds() * float64(k.size) / float64(sampled), err
}

// fastest of three runs.
func fastest(do func() error) (time.Duration, error) {
	var all []time.Duration
	for range 3 {
		start := time.Now()
		if err := do(); err != nil {
			return 0, err
		}
		all = append(all, time.Since(start))
	}
	return slices.Min(all), nil
}
