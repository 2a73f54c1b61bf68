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
	listPage      = 1000 // keys asked for at once; S3 gives no more
	maxEmptyPages = 8    // in a row; deleted versions may fill whole pages
	emptySHA256   = "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855"
)

// List implements Target. A page is asked for when the one before it has been
// consumed. Pages are asked for and decoded here, not by minio-go, whose
// listing cannot be cancelled (Core) or keeps whatever a hostile page holds.
func (s *S3) List(ctx context.Context, prefix string) iter.Seq2[Info, error] {
	return func(yield func(Info, error) bool) {
		err := checkPrefix(prefix)
		if err == nil {
			err = s.list(ctx, prefix, yield)
		}
		if err != nil && err != errListStopped {
			yield(Info{}, failed("list", s.explain(ctx, err)))
		}
	}
}

func (s *S3) list(ctx context.Context, prefix string, yield func(Info, error) bool) error {
	last, token, empty := "", "", 0
	for {
		page, err := s.page(ctx, prefix, last, token)
		if err != nil {
			return err
		}
		for _, entry := range page.entries {
			info, err := s.info(entry, page.encoded, prefix, last)
			if err != nil {
				return err
			}
			last = info.Name
			if CheckName(info.Name) != nil {
				continue
			}
			if !yield(info, nil) {
				return errListStopped
			}
		}
		if empty++; len(page.entries) > 0 {
			empty = 0
		}
		switch {
		case !page.truncated:
			return nil
		case page.token == "":
			return errors.New("the listing goes on, but the server does not say where")
		case empty > maxEmptyPages:
			return fmt.Errorf("%d empty pages in a row", empty)
		}
		token = page.token
	}
}

// info checks one entry of a page. last is the name before it, or "".
func (s *S3) info(e listEntry, encoded bool, prefix, last string) (Info, error) {
	key := e.Key
	if encoded {
		var err error
		if key, err = url.QueryUnescape(key); err != nil {
			return Info{}, fmt.Errorf("key %.80q: %w", e.Key, err)
		}
	}
	name, ours := strings.CutPrefix(key, s.config.Prefix)
	switch {
	case len(key) > maxName:
		return Info{}, fmt.Errorf("a key of %d bytes", len(key))
	case !ours || !strings.HasPrefix(name, prefix):
		return Info{}, fmt.Errorf("key %q is outside of what was asked for", key)
	case name <= last && last != "":
		return Info{}, fmt.Errorf("key %q does not come after %q", name, last)
	case e.Size < 0:
		return Info{}, fmt.Errorf("key %q has %d bytes", key, e.Size)
	}
	return Info{Name: name, Size: e.Size, Modified: e.Modified}, nil
}

type listEntry struct {
	Key      string    `xml:"Key"`
	Size     int64     `xml:"Size"`
	Modified time.Time `xml:"LastModified"`
}

type listing struct {
	entries   []listEntry
	encoded   bool
	truncated bool
	token     string
}

// page asks for one page of keys: after the name last when token is empty,
// else where token says.
func (s *S3) page(ctx context.Context, prefix, last, token string) (*listing, error) {
	query := url.Values{
		"list-type":     {"2"},
		"encoding-type": {"url"}, // XML cannot hold every key that others may have put
		"max-keys":      {strconv.Itoa(listPage)},
		"prefix":        {s.config.Prefix + prefix},
	}
	if token != "" {
		query.Set("continuation-token", token)
	} else if last != "" {
		query.Set("start-after", s.config.Prefix+last)
	}
	target := s.endpoint()
	target.Path = "/" + s.config.Bucket + "/"
	target.RawQuery = query.Encode()
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, target.String(), nil)
	if err != nil {
		return nil, err
	}
	req.Header.Set("X-Amz-Content-Sha256", emptySHA256)
	c := s.config
	resp, err := s.http.Do(signer.SignV4(*req, c.AccessKey, c.SecretKey, c.SessionToken, c.Region))
	if err != nil {
		return nil, err
	}
	var page *listing
	if resp.StatusCode == http.StatusOK {
		page, err = readPage(resp.Body)
	} else {
		err = readError(resp)
	}
	if err := firstErr(err, resp.Body.Close()); err != nil {
		return nil, err
	}
	return page, nil
}

// readPage decodes element by element, so that a page holds what was asked
// for and nothing else, whatever the server sends.
func readPage(body io.Reader) (*listing, error) {
	dec := xml.NewDecoder(body)
	root, err := nextElement(dec)
	if err != nil {
		return nil, fmt.Errorf("the listing is not XML: %w", err)
	}
	if root == nil || root.Name.Local != "ListBucketResult" {
		return nil, errors.New("the answer is not a listing: is this an S3 server?")
	}
	var page listing
	for {
		start, err := nextElement(dec)
		if err != nil {
			return nil, fmt.Errorf("read the listing: %w", err)
		}
		if start == nil {
			return &page, nil
		}
		switch start.Name.Local {
		case "Contents":
			var e listEntry
			err = dec.DecodeElement(&e, start)
			page.entries = append(page.entries, e)
			if len(page.entries) > listPage {
				return nil, fmt.Errorf("more than the %d keys asked for", listPage)
			}
		case "IsTruncated":
			err = dec.DecodeElement(&page.truncated, start)
		case "NextContinuationToken":
			err = dec.DecodeElement(&page.token, start)
		case "EncodingType":
			var encoding string
			err = dec.DecodeElement(&encoding, start)
			page.encoded = encoding == "url"
		default:
			err = dec.Skip()
		}
		if err != nil {
			return nil, fmt.Errorf("read the listing: %w", err)
		}
	}
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
