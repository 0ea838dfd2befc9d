package cmd

import (
	"bufio"
	"bytes"
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"os"
	"strings"
	"syscall"
	"time"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"

	"github.com/heartline-mqtt/heartline/config"
	"github.com/heartline-mqtt/heartline/wire"
)

const defaultServer = "http://127.0.0.1:8080"

// callTimeout is for one call of the API, which answers at once or after a sync of
// the disk.
const callTimeout = time.Minute

// answerLimit is above the largest answer of the API, a page of notifications.
const answerLimit = 64 << 20

// server is how the commands reach the HTTP API.
type server struct {
	p     *program
	flags *pflag.FlagSet
}

// callsServer adds the flags of every command that calls a server.
func (p *program) callsServer(cmd *cobra.Command) *server {
	cmd.GroupID = groupClient
	cmd.Flags().String("server", "", "`URL` of the server (or "+config.EnvServer+"; "+defaultServer+")")
	cmd.Flags().String("token-file", "", "`file` with the bearer token (or "+config.EnvTokenFile+", or the token itself in "+config.EnvToken+")")
	cmd.Flags().String("ca-file", "", "`file` with the CA (PEM) of the server's certificate, in addition to the system's")
	return &server{p, cmd.Flags()}
}

// client is one server and the right to call it.
type client struct {
	base  *url.URL
	token string
	http  *http.Client
	name  string // of the program, for hints
}

func (s *server) client() (*client, error) {
	flag := func(name, env string) string {
		v, _ := s.flags.GetString(name) // both exist, and are strings
		return cmp.Or(v, s.p.getenv(env))
	}
	address := cmp.Or(flag("server", config.EnvServer), defaultServer)
	base, err := url.Parse(address)
	if err != nil || base.Scheme != "http" && base.Scheme != "https" || base.Host == "" {
		return nil, usagef("--server: must be a URL that begins with http:// or https://, got %q", address)
	}
	c := &client{base: base, token: s.p.getenv(config.EnvToken), http: &http.Client{}, name: s.p.name()}
	if file, _ := s.flags.GetString("ca-file"); file != "" {
		trusted, err := trust(file)
		if err != nil {
			return nil, usageError{err}
		}
		c.http.Transport = &http.Transport{Proxy: http.ProxyFromEnvironment, TLSClientConfig: trusted, ForceAttemptHTTP2: true, DisableKeepAlives: true}
	}
	if file := flag("token-file", config.EnvTokenFile); file != "" {
		token, err := os.ReadFile(file)
		if err != nil {
			return nil, usageError{fmt.Errorf("--token-file: %w", err)}
		}
		c.token = strings.TrimSpace(string(token))
	}
	if strings.ContainsFunc(c.token, func(r rune) bool { return r <= ' ' || r >= 0x7f }) {
		return nil, usagef("the bearer token holds characters that no token has (the value is not shown)")
	}
	return c, nil
}

// call is one call of the API: in is sent as JSON (nil: no body), the answer is
// decoded into out (nil: not looked into), and returned as it came.
func (c *client) call(ctx context.Context, method, path string, query url.Values, in, out any) (json.RawMessage, error) {
	var body io.Reader
	if in != nil {
		b, err := json.Marshal(in)
		if err != nil {
			return nil, usageError{fmt.Errorf("write the request: %w", err)}
		}
		body = bytes.NewReader(b)
	}
	ctx, cancel := context.WithTimeout(ctx, callTimeout)
	defer cancel()
	header := http.Header{"Accept": {"application/json"}}
	if in != nil {
		header.Set("Content-Type", "application/json")
	}
	resp, err := c.send(ctx, method, path, query, header, body)
	if err != nil {
		return nil, err
	}
	defer resp.Body.Close()
	answer, err := io.ReadAll(io.LimitReader(resp.Body, answerLimit))
	if err != nil {
		return nil, fmt.Errorf("read the answer of %s: %w", c.base.Host, err)
	}
	if out == nil {
		return answer, nil
	}
	if err := json.Unmarshal(answer, out); err != nil {
		return nil, fmt.Errorf("%s answered %s and not with what Heartline answers (%w): is --server right?", c.base.Host, resp.Status, err)
	}
	return answer, nil
}

// segment is a name as one segment of a path. As "." or ".." it would be none, and the path that of
// something else.
func segment(name string) string {
	if name == "." || name == ".." {
		return strings.ReplaceAll(name, ".", "%2E")
	}
	return url.PathEscape(name)
}

// send returns the answer where it is one of success, and an error that people can
// act on where it is not.
func (c *client) send(ctx context.Context, method, path string, query url.Values, header http.Header, body io.Reader) (*http.Response, error) {
	u := c.base.JoinPath(path)
	u.RawQuery = query.Encode()
	req, err := http.NewRequestWithContext(ctx, method, u.String(), body)
	if err != nil {
		return nil, fmt.Errorf("call %s: %w", c.base.Redacted(), err)
	}
	req.Header = header
	if c.token != "" {
		req.Header.Set("Authorization", "Bearer "+c.token)
	}
	resp, err := c.http.Do(req)
	if err != nil {
		return nil, c.unreachable(err)
	}
	if resp.StatusCode/100 != 2 {
		defer resp.Body.Close()
		return nil, problemOf(resp)
	}
	return resp, nil
}

// unreachable says what to do about a server that does not answer.
func (c *client) unreachable(err error) error {
	if errors.Is(err, context.DeadlineExceeded) {
		return fmt.Errorf("%s has not answered within %s", c.base.Host, callTimeout)
	}
	if errors.Is(err, syscall.ECONNREFUSED) {
		return fmt.Errorf("nothing listens on %s: start a server with `%s serve --dev`, or name another with --server", c.base.Host, c.name)
	}
	if ue, ok := errors.AsType[*url.Error](err); ok {
		err = ue.Err // without the URL, which the text below has
	}
	return fmt.Errorf("call %s: %w", c.base.Redacted(), err)
}

// refusal is an answer of failure.
type refusal struct {
	wire.Problem
	retryAfter string
}

// final reports whether the same call would be refused again.
func (r *refusal) final() bool {
	return r.Status/100 == 4 && r.Status != http.StatusRequestTimeout && r.Status != http.StatusTooManyRequests
}

func problemOf(resp *http.Response) error {
	r := &refusal{retryAfter: resp.Header.Get("Retry-After")}
	b, _ := io.ReadAll(io.LimitReader(resp.Body, 64<<10)) // what came is all there is to show
	if err := json.Unmarshal(b, &r.Problem); err != nil {
		// Not ours: a proxy's page, perhaps. Its first line is better than nothing.
		r.Detail, _, _ = strings.Cut(strings.TrimSpace(string(b)), "\n")
	}
	r.Status = resp.StatusCode
	return r
}

func (r *refusal) Error() string {
	var b strings.Builder
	fmt.Fprintf(&b, "%s (HTTP %d)", strings.TrimPrefix(cmp.Or(r.Detail, r.Title, http.StatusText(r.Status)), "body."), r.Status)
	for _, e := range r.Errors {
		if !strings.Contains(r.Detail, e.Message) { // of one mistake, the detail is its message
			fmt.Fprintf(&b, "\n  %s: %s", strings.TrimPrefix(e.Location, "body."), e.Message)
		}
	}
	if r.Status == http.StatusUnauthorized {
		b.WriteString("\nname the file that holds an API token with --token-file")
	}
	if r.retryAfter != "" {
		fmt.Fprintf(&b, "\nto be tried again in %s s", r.retryAfter)
	}
	return b.String()
}

// stream reads server-sent events and calls fn with the data of each, until the
// stream or ctx ends; connected is called once it is open. It returns the last
// event ID, which a new stream can go on from.
func (c *client) stream(ctx context.Context, query url.Values, lastID string, connected func(), fn func(data []byte) error) (string, error) {
	header := http.Header{"Accept": {"text/event-stream"}}
	if lastID != "" {
		header.Set("Last-Event-ID", lastID)
	}
	resp, err := c.send(ctx, http.MethodGet, "/v1/events", query, header, nil)
	if err != nil {
		return lastID, err
	}
	defer resp.Body.Close()
	connected()
	lines := bufio.NewScanner(resp.Body)
	lines.Buffer(nil, 1<<20)
	var data []byte
	for lines.Scan() {
		line := lines.Bytes()
		if len(line) == 0 { // the end of one event
			if data != nil {
				if err := fn(data); err != nil {
					return lastID, err
				}
				data = nil
			}
			continue
		}
		name, value, _ := bytes.Cut(line, []byte(":")) // a comment has an empty name
		value = bytes.TrimPrefix(value, []byte(" "))
		switch string(name) {
		case "data":
			if data != nil {
				data = append(data, '\n')
			}
			data = append(data, value...)
		case "id":
			lastID = string(value)
		}
	}
	if ctx.Err() != nil {
		return lastID, ctx.Err()
	}
	return lastID, cmp.Or(lines.Err(), io.ErrUnexpectedEOF)
}
