package targets

import (
	"context"
	"encoding/xml"
	"errors"
	"fmt"
	"io"
	"iter"
	"net/http"
	"net/url"
	"strconv"
	"strings"
	"time"

	"github.com/minio/minio-go/v7"
	"github.com/minio/minio-go/v7/pkg/signer"
)

const (
	listPage      = 1000    // entries asked for at once; S3 gives no more
	maxEmptyPages = 8       // in a row; deleted versions may fill whole pages
	maxVersions   = 1 << 14 // of one name
	maxBefore     = 1 << 19 // keys before the one that a listing begins after, of a server that does not skip them
	maxMarker     = 4096    // bytes of where the next page begins
	emptySHA256   = "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855"
)

// List implements Target. A page is asked for when the one before it has been
// consumed. Pages are asked for and decoded here, not by minio-go, whose
// listing cannot be cancelled (Core) or keeps whatever a hostile page holds.
func (s *S3) List(ctx context.Context, prefix string) iter.Seq2[Info, error] {
	return s.ListAfter(ctx, prefix, "")
}

// ListAfter implements Sought. A server that does not know start-after costs
// more pages, and no wrong name.
func (s *S3) ListAfter(ctx context.Context, prefix, after string) iter.Seq2[Info, error] {
	return func(yield func(Info, error) bool) {
		before := 0
		err := s.list(ctx, prefix, after, false, func(v Version) bool {
			if v.Name > after {
				return yield(v.Info, nil)
			}
			before++
			return before <= maxBefore
		})
		if err == nil && before > maxBefore {
			err = fmt.Errorf("more than %d keys before the one from which on it was asked to list", maxBefore)
		}
		if err != nil {
			yield(Info{}, failed("list", s.explain(ctx, err)))
		}
	}
}

// Versions implements Versioned. More than 16,384 versions of one name end it
// with an error.
func (s *S3) Versions(ctx context.Context, prefix string) iter.Seq2[Version, error] {
	return func(yield func(Version, error) bool) {
		err := s.list(ctx, prefix, "", true, func(v Version) bool { return yield(v, nil) })
		if err != nil {
			yield(Version{}, failed("list versions", s.explain(ctx, err)))
		}
	}
}

// list yields what lies below the prefix, as far as the server goes by it from
// after a name on, until yield returns false, which is no error.
func (s *S3) list(ctx context.Context, prefix, after string, versions bool, yield func(Version) bool) error {
	if err := checkPrefix(prefix); err != nil {
		return err
	}
	query := url.Values{
		"encoding-type": {"url"}, // XML cannot hold every key that others may have put
		"max-keys":      {strconv.Itoa(listPage)},
		"prefix":        {s.config.Prefix + prefix},
	}
	if versions {
		query.Set("versions", "")
	} else {
		query.Set("list-type", "2")
	}
	if after != "" {
		query.Set("start-after", s.config.Prefix+after)
	}
	order := order{prefix: prefix, versions: versions}
	return s.pages(ctx, query, func(e listEntry, encoded bool) (bool, error) {
		v, err := s.version(e, encoded)
		if err == nil {
			err = order.next(v)
		}
		if err != nil {
			return false, err
		}
		return CheckName(v.Name) != nil || yield(v), nil
	})
}

// pages gives the entries of a listing to each, page after page, until that
// returns false or an error.
func (s *S3) pages(ctx context.Context, query url.Values, each func(e listEntry, encoded bool) (bool, error)) error {
	for empty := 0; ; {
		page, err := s.page(ctx, query)
		if err != nil {
			return err
		}
		for _, e := range page.entries {
			if more, err := each(e, page.encoded); err != nil || !more {
				return err
			}
		}
		if empty++; len(page.entries) > 0 {
			empty = 0
		}
		if !page.truncated {
			return nil
		}
		if empty > maxEmptyPages {
			return fmt.Errorf("%d empty pages in a row", empty)
		}
		if err := page.turn(query); err != nil {
			return err
		}
	}
}

// version makes of an entry what it says.
func (s *S3) version(e listEntry, encoded bool) (Version, error) {
	key, err := unescape(e.Key, encoded)
	if err != nil {
		return Version{}, err
	}
	if len(key) > maxName {
		return Version{}, fmt.Errorf("a key of %d bytes", len(key))
	}
	name, ours := strings.CutPrefix(key, s.config.Prefix)
	if !ours {
		return Version{}, fmt.Errorf("key %q is outside of what was asked for", key)
	}
	if e.Size < 0 {
		return Version{}, fmt.Errorf("key %q has %d bytes", key, e.Size)
	}
	v := Version{Info: Info{Name: name, Size: e.Size, Modified: e.Modified}, ID: e.VersionID, Latest: e.Latest, Marker: e.marker}
	if v.Marker {
		v.Size = 0
	}
	if v.ID == "" {
		v.ID = NullVersion
	}
	return v, nil
}

// order checks that a listing goes on as it should.
type order struct {
	prefix   string
	versions bool
	last     Version // zero before the first
	same     int     // entries of its name
}

func (o *order) next(v Version) error {
	last := o.last
	o.last = v
	switch {
	case !strings.HasPrefix(v.Name, o.prefix):
		return fmt.Errorf("key %q is outside of what was asked for", v.Name)
	case last.ID == "" || v.Name > last.Name:
		o.same = 1
	case !o.versions || v.Name < last.Name:
		return fmt.Errorf("key %q does not come after %q", v.Name, last.Name)
	case v.Latest || v.ID == last.ID:
		return fmt.Errorf("versions of key %q are listed twice", v.Name)
	case o.same == maxVersions:
		return fmt.Errorf("more than %d versions of key %q", maxVersions, v.Name)
	default:
		o.same++
	}
	if err := checkVersion(v.ID); err != nil {
		return fmt.Errorf("key %q: %w", v.Name, err)
	}
	return nil
}

func unescape(key string, encoded bool) (string, error) {
	if !encoded {
		return key, nil
	}
	plain, err := url.QueryUnescape(key)
	if err != nil {
		return "", fmt.Errorf("key %.80q: %w", key, err)
	}
	return plain, nil
}

type listEntry struct {
	Key       string    `xml:"Key"`
	Size      int64     `xml:"Size"`
	Modified  time.Time `xml:"LastModified"`
	ETag      string    `xml:"ETag"`
	VersionID string    `xml:"VersionId"`
	Latest    bool      `xml:"IsLatest"`
	marker    bool
}

// listing is one page.
type listing struct {
	versions  bool
	entries   []listEntry
	encoded   bool
	truncated bool
	// Where the next page begins: a token, or a key and a version of it.
	token, key, version string
}

// turn makes the query ask for the page after this one.
func (l *listing) turn(query url.Values) error {
	if l.versions {
		key, err := unescape(l.key, l.encoded)
		if err != nil {
			return err
		}
		query.Set("key-marker", key)
		query.Del("version-id-marker") // which servers refuse when it is empty
		if l.version != "" {
			query.Set("version-id-marker", l.version)
		}
	} else {
		query.Set("continuation-token", l.token)
	}
	switch at := l.token + l.key; {
	case at == "":
		return errors.New("the listing goes on, but the server does not say where")
	case len(at)+len(l.version) > maxMarker:
		return errors.New("the listing goes on at a key that is too long")
	}
	return nil
}

// page asks for one page.
func (s *S3) page(ctx context.Context, query url.Values) (*listing, error) {
	resp, err := s.ask(ctx, query)
	if err != nil {
		return nil, err
	}
	page := &listing{versions: query.Has("versions")}
	if resp.StatusCode == http.StatusOK {
		err = page.read(resp.Body)
	} else {
		err = readError(resp)
	}
	if err := firstErr(err, resp.Body.Close()); err != nil {
		return nil, err
	}
	return page, nil
}

// ask sends a signed GET for the bucket. The caller closes the body.
func (s *S3) ask(ctx context.Context, query url.Values) (*http.Response, error) {
	target := s.endpoint()
	target.Path = "/" + s.config.Bucket + "/"
	target.RawQuery = query.Encode()
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, target.String(), nil)
	if err != nil {
		return nil, err
	}
	req.Header.Set("X-Amz-Content-Sha256", emptySHA256)
	c := s.config
	return s.http.Do(signer.SignV4(*req, c.AccessKey, c.SecretKey, c.SessionToken, c.Region))
}

// read decodes element by element, so that a page holds what was asked for and
// nothing else, whatever the server sends.
func (l *listing) read(body io.Reader) error {
	dec := xml.NewDecoder(body)
	root, err := nextElement(dec)
	if err != nil {
		return fmt.Errorf("the listing is not XML: %w", err)
	}
	want := "ListBucketResult"
	if l.versions {
		want = "ListVersionsResult"
	}
	if l.versions && root != nil && root.Name.Local == "ListBucketResult" {
		return fmt.Errorf("%w: the server lists objects only", errors.ErrUnsupported)
	}
	if root == nil || root.Name.Local != want {
		return errors.New("the answer is not a listing: is this an S3 server?")
	}
	for {
		start, err := nextElement(dec)
		if err == nil && start == nil {
			return nil
		}
		if err == nil {
			err = l.element(dec, start)
		}
		if err != nil {
			return fmt.Errorf("read the listing: %w", err)
		}
	}
}

func (l *listing) element(dec *xml.Decoder, start *xml.StartElement) error {
	switch name := start.Name.Local; {
	case name == "Contents" && !l.versions, (name == "Version" || name == "DeleteMarker") && l.versions:
		if len(l.entries) == listPage {
			return fmt.Errorf("more than the %d keys asked for", listPage)
		}
		e := listEntry{marker: name == "DeleteMarker"}
		err := dec.DecodeElement(&e, start)
		l.entries = append(l.entries, e)
		return err
	case name == "IsTruncated":
		return dec.DecodeElement(&l.truncated, start)
	case name == "NextContinuationToken" && !l.versions:
		return dec.DecodeElement(&l.token, start)
	case name == "NextKeyMarker" && l.versions:
		return dec.DecodeElement(&l.key, start)
	case name == "NextVersionIdMarker" && l.versions:
		return dec.DecodeElement(&l.version, start)
	case name == "EncodingType":
		var encoding string
		err := dec.DecodeElement(&encoding, start)
		l.encoded = encoding == "url"
		return err
	}
	return dec.Skip()
}

// nextElement returns the next child of the element that dec is in, or nil at
// that element's end. The end of the input is an error.
func nextElement(dec *xml.Decoder) (*xml.StartElement, error) {
	for {
		token, err := dec.Token()
		if err != nil {
			if err == io.EOF {
				err = errCut
			}
			return nil, err
		}
		switch t := token.(type) {
		case xml.StartElement:
			return &t, nil
		case xml.EndElement:
			return nil, nil
		}
	}
}

// readError makes of a refusal what minio-go makes of the refusals that it sees.
func readError(resp *http.Response) error {
	body, err := io.ReadAll(resp.Body)
	if err != nil {
		return err
	}
	var answer minio.ErrorResponse
	if xml.Unmarshal(body, &answer) != nil || answer.Code == "" {
		answer = minio.ErrorResponse{Code: resp.Status}
		if resp.StatusCode == http.StatusNotFound {
			answer.Code = minio.NoSuchBucket
		}
	}
	answer.StatusCode = resp.StatusCode
	return answer
}
