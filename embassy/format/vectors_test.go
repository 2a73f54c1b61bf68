package format_test

import (
	"bytes"
	"encoding/hex"
	"encoding/json"
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"reflect"
	"slices"
	"strings"
	"testing"
	"testing/cryptotest"

	"github.com/google/go-cmp/cmp"
)

var update = flag.Bool("update", false, "make the stored vectors anew")

// storedVectors is how many there are: one that does not load is missed.
const storedVectors = 801

const vectorDir = "testdata/vectors"

// vectorFile is one file of testdata/vectors; docs/FORMAT.md says how to read
// it.
type vectorFile struct {
	Format  string   `json:"format"`
	About   string   `json:"about"`
	Vectors []vector `json:"vectors"`
}

type vector struct {
	Name   string          `json:"name"`
	Op     string          `json:"op"`
	Class  string          `json:"class"`          // valid, malformed or authentication
	From   string          `json:"from,omitempty"` // starts from the input of that vector
	In     json.RawMessage `json:"in,omitempty"`   // fields that are different, or all
	Splice []splice        `json:"splice,omitempty"`
	Want   any             `json:"want,omitempty"`
}

// splice replaces Cut bytes of the object (or of the text) at At by Put.
type splice struct {
	At  int      `json:"at"`
	Cut int      `json:"cut,omitempty"`
	Put hexBytes `json:"put,omitempty"`
}

// input holds what any operation takes.
type input struct {
	Object      []byte     `json:"object,omitempty"` // base64
	Text        string     `json:"text,omitempty"`
	Root        hexBytes   `json:"root,omitempty"`
	Nation      hexBytes   `json:"nation,omitempty"`
	Compartment hexBytes   `json:"compartment,omitempty"`
	Agent       hexBytes   `json:"agent,omitempty"`
	Chain       hexBytes   `json:"chain,omitempty"`
	Epoch       uint32     `json:"epoch,omitempty"`
	Seq         uint64     `json:"seq,omitempty"`
	Verifier    hexBytes   `json:"verifier,omitempty"`
	Writer      hexBytes   `json:"writer,omitempty"`
	Identities  []hexBytes `json:"identities,omitempty"`
	Kind        uint8      `json:"kind,omitempty"`
	After       hexBytes   `json:"after,omitempty"`
	Passphrase  string     `json:"passphrase,omitempty"`
	Name        string     `json:"name,omitempty"`
	Count       int        `json:"count,omitempty"`
	Limit       int        `json:"limit,omitempty"`
	Runs        []uint32   `json:"runs,omitempty"`
	Snapshot    []byte     `json:"snapshot,omitempty"` // base64
}

// hexBytes stands as hexadecimal in JSON.
type hexBytes []byte

func (h hexBytes) MarshalText() ([]byte, error) { return []byte(hex.EncodeToString(h)), nil }

func (h *hexBytes) UnmarshalText(text []byte) (err error) {
	*h, err = hex.DecodeString(string(text))
	return err
}

// plain turns a decoded record into what JSON can hold: bytes become
// hexadecimal, structures maps without their zero fields.
func plain(x any) any {
	v := reflect.ValueOf(x)
	if !v.IsValid() {
		return nil
	}
	if (v.Kind() == reflect.Slice || v.Kind() == reflect.Array) && v.Type().Elem().Kind() == reflect.Uint8 {
		b := make([]byte, v.Len())
		reflect.Copy(reflect.ValueOf(b), v)
		return hex.EncodeToString(b)
	}
	switch v.Kind() {
	case reflect.Pointer, reflect.Interface:
		if v.IsNil() {
			return nil
		}
		return plain(v.Elem().Interface())
	case reflect.Slice, reflect.Array:
		list := []any{}
		for i := range v.Len() {
			list = append(list, plain(v.Index(i).Interface()))
		}
		return list
	case reflect.Map:
		m := map[string]any{}
		for _, k := range v.MapKeys() {
			m[fmt.Sprint(k.Interface())] = plain(v.MapIndex(k).Interface())
		}
		return m
	case reflect.Struct:
		m := map[string]any{}
		for i := range v.NumField() {
			if f := v.Type().Field(i); f.IsExported() && !v.Field(i).IsZero() {
				m[f.Name] = plain(v.Field(i).Interface())
			}
		}
		return m
	default:
		return v.Convert(map[bool]reflect.Type{
			v.CanInt(): reflect.TypeFor[int64](), v.CanUint(): reflect.TypeFor[uint64](),
			v.Kind() == reflect.String: reflect.TypeFor[string](), v.Kind() == reflect.Bool: reflect.TypeFor[bool](),
		}[true]).Interface()
	}
}

func mustJSON(t testing.TB, v any) []byte {
	t.Helper()
	b, err := json.Marshal(v)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

// unJSON parses what a vector holds, numbers as they stand.
func unJSON(t testing.TB, b []byte) (v any) {
	t.Helper()
	d := json.NewDecoder(bytes.NewReader(b))
	d.UseNumber()
	if err := d.Decode(&v); err != nil {
		t.Fatal(err)
	}
	return v
}

// resolve returns the whole input of a vector.
func (f *vectorFile) resolve(t testing.TB, v *vector) input {
	t.Helper()
	var in input
	if v.From != "" {
		i := slices.IndexFunc(f.Vectors, func(o vector) bool { return o.Name == v.From })
		if i < 0 || f.Vectors[i].From != "" {
			t.Fatalf("%s starts from %q, which is not there or starts from another", v.Name, v.From)
		}
		in = f.resolve(t, &f.Vectors[i])
	}
	if len(v.In) > 0 {
		d := json.NewDecoder(bytes.NewReader(v.In))
		d.DisallowUnknownFields()
		if err := d.Decode(&in); err != nil {
			t.Fatalf("%s: %v", v.Name, err)
		}
	}
	for _, s := range v.Splice {
		b := in.Object
		if in.Text != "" {
			b = []byte(in.Text)
		}
		b = slices.Concat(b[:s.At], s.Put, b[s.At+s.Cut:])
		if in.Text != "" {
			in.Text = string(b)
		} else {
			in.Object = b
		}
	}
	return in
}

func TestVectors(t *testing.T) {
	if *update {
		storeVectors(t)
	}
	loaded := 0
	for name, f := range loadVectors(t) {
		classes := map[string]int{}
		t.Run(name, func(t *testing.T) {
			for i := range f.Vectors {
				loaded++
				classes[f.Vectors[i].Class]++
				t.Run(f.Vectors[i].Name, func(t *testing.T) { f.check(t, &f.Vectors[i]) })
			}
		})
		if classes["valid"] == 0 {
			t.Errorf("%s holds no valid vector", name)
		}
	}
	if loaded != storedVectors {
		t.Errorf("%d vectors loaded, want %d", loaded, storedVectors)
	}
}

// loadVectors returns the stored files by their names, without ".json".
func loadVectors(t *testing.T) map[string]*vectorFile {
	t.Helper()
	paths, err := filepath.Glob(filepath.Join(vectorDir, "*.json"))
	if err != nil {
		t.Fatal(err)
	}
	files, total := map[string]*vectorFile{}, 0
	for _, path := range paths {
		raw, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		total += len(raw)
		f := new(vectorFile)
		d := json.NewDecoder(bytes.NewReader(raw))
		d.DisallowUnknownFields()
		d.UseNumber()
		if err := d.Decode(f); err != nil {
			t.Fatalf("%s: %v", path, err)
		}
		files[strings.TrimSuffix(filepath.Base(path), ".json")] = f
	}
	if total > 2<<20 {
		t.Errorf("the vectors take %d bytes", total)
	}
	return files
}

func (f *vectorFile) check(t *testing.T, v *vector) {
	op := operations[v.Op]
	if op == nil {
		t.Fatalf("unknown operation %q", v.Op)
	}
	got, err := op(f.resolve(t, v))
	if class(err) != v.Class {
		t.Fatalf("got %v, want %s", err, v.Class)
	}
	if err != nil {
		return
	}
	if v.Want == nil {
		t.Fatal("nothing is expected")
	}
	if diff := cmp.Diff(v.Want, unJSON(t, mustJSON(t, plain(got)))); diff != "" {
		t.Error(diff)
	}
}

// storeVectors writes the vectors anew, from fixed keys and a fixed stream of
// randomness.
func storeVectors(t *testing.T) {
	cryptotest.SetGlobalRandom(t, 1)
	if err := os.MkdirAll(vectorDir, 0o755); err != nil {
		t.Fatal(err)
	}
	for name, f := range makeVectors(t) {
		f.Format = "embassy/v1 draft"
		for i := range f.Vectors {
			v := &f.Vectors[i]
			got, err := operations[v.Op](f.resolve(t, v))
			if class(err) != v.Class {
				t.Errorf("%s: %s: got %v, want %s", name, v.Name, err, v.Class)
			}
			if err == nil {
				v.Want = unJSON(t, mustJSON(t, plain(got)))
			}
		}
		b, err := json.MarshalIndent(f, "", " ")
		if err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(filepath.Join(vectorDir, name+".json"), append(b, '\n'), 0o644); err != nil {
			t.Fatal(err)
		}
	}
}
