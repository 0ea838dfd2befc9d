package demo

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"syscall"
	"time"

	"github.com/heartline-mqtt/heartline/broker"
	"github.com/heartline-mqtt/heartline/fallback/apnssim"
	"github.com/heartline-mqtt/heartline/internal/child"
)

// nodePatience bounds each wait for a node, on a busy machine too.
const nodePatience = 2 * time.Minute

// fleet is the nodes, processes of their own over one database.
type fleet struct {
	dir     string // the configurations
	program string
	environ []string
	url     string // of the database
	schema  string
	sim     *apnssim.Server
	db      *broker.Database
	nodes   []*member
}

// member is a node: `heartline serve` in a process.
type member struct {
	name       string
	cmd        *exec.Cmd
	mqtt, http string        // where it listens
	ready      chan struct{} // closed when it serves
	ended      chan struct{} // closed when it has ended

	mu   sync.Mutex
	last []string // lines of its log
}

// start starts a node and returns when it serves.
func (f *fleet) start(ctx context.Context, name string) (*member, error) {
	file, err := f.configure(name)
	if err != nil {
		return nil, fmt.Errorf("configure node %s: %w", name, err)
	}
	m := &member{name: name, ready: make(chan struct{}), ended: make(chan struct{})}
	m.cmd = exec.CommandContext(context.WithoutCancel(ctx), f.program, "serve", "--config", file) //nolint:gosec // this program
	m.cmd.Env, m.cmd.SysProcAttr = f.environ, child.Attr(syscall.SIGKILL)
	log, err := m.cmd.StderrPipe()
	if err != nil {
		return nil, err
	}
	if err := m.cmd.Start(); err != nil {
		return nil, fmt.Errorf("start node %s: %w", name, err)
	}
	go m.read(log)
	f.nodes = slices.DeleteFunc(f.nodes, func(former *member) bool { return former.name == name })
	f.nodes = append(f.nodes, m)
	slices.SortFunc(f.nodes, func(a, b *member) int { return strings.Compare(a.name, b.name) })
	ctx, cancel := context.WithTimeout(ctx, nodePatience)
	defer cancel()
	select {
	case <-m.ready:
		return m, nil
	case <-m.ended:
		return nil, fmt.Errorf("node %s has ended: %s", name, m.log())
	case <-ctx.Done():
		return nil, fmt.Errorf("node %s does not start: %w: %s", name, ctx.Err(), m.log())
	}
}

// configure writes the configuration of a node.
func (f *fleet) configure(name string) (file string, err error) {
	key := f.sim.Key()
	ca, keyFile, url := filepath.Join(f.dir, "ca.pem"), filepath.Join(f.dir, "apns.p8"), filepath.Join(f.dir, "database-url")
	type section = map[string]any
	text, err := json.Marshal(section{
		"data_dir": filepath.Join(f.dir, name),
		"mqtt":     section{"address": "127.0.0.1:0"},
		"http":     section{"address": "127.0.0.1:0"},
		"store":    section{"engine": "postgres", "postgres": section{"url_file": url, "schema": f.schema}},
		"cluster":  section{"address": "127.0.0.1:0", "name": name},
		"fallback": section{"apns": section{
			"enabled": true, "key_file": keyFile, "key_id": key.KeyID, "team_id": key.TeamID, "topic": bundleID, "endpoint": f.sim.URL(), "ca_file": ca,
		}},
		"log": section{"format": "json"},
	})
	file = filepath.Join(f.dir, name+".json")
	for name, text := range map[string][]byte{file: text, ca: f.sim.CAPEM(), keyFile: key.PEM, url: []byte(f.url)} {
		err = errors.Join(err, os.WriteFile(name, text, 0o600))
	}
	return file, err
}

// read reads the log of the node until the node ends.
func (m *member) read(log io.Reader) {
	defer close(m.ended)
	for lines := bufio.NewScanner(log); lines.Scan(); {
		var ready struct{ Msg, MQTT, HTTP string }
		if m.http == "" && json.Unmarshal(lines.Bytes(), &ready) == nil && ready.Msg == "heartline is ready" {
			m.mqtt, m.http = ready.MQTT, ready.HTTP
			close(m.ready)
		}
		m.mu.Lock()
		m.last = append(m.last[max(0, len(m.last)-9):], lines.Text())
		m.mu.Unlock()
	}
	_ = m.cmd.Wait() // nodes are killed here
}

// log returns the end of the log.
func (m *member) log() string {
	m.mu.Lock()
	defer m.mu.Unlock()
	return strings.Join(m.last, "\n")
}

// kill is kill -9: the node hands nothing over.
func (m *member) kill() {
	_ = m.cmd.Process.Kill() // it may have ended
	<-m.ended
}

// node returns a node by its name.
func (f *fleet) node(name string) *member {
	return f.nodes[slices.IndexFunc(f.nodes, func(m *member) bool { return m.name == name })]
}

// close ends the nodes and removes the tables.
func (f *fleet) close() error {
	for _, m := range f.nodes {
		m.kill()
	}
	if f.db == nil {
		return nil
	}
	ctx, cancel := context.WithTimeout(context.Background(), 30*time.Second)
	defer cancel()
	defer f.db.Close()
	if err := f.db.Drop(ctx); err != nil {
		return fmt.Errorf("remove schema %s: %w", f.schema, err)
	}
	return nil
}

// shares returns how many partitions each of the nodes owns once they, and nobody else, own
// all in about equal parts.
func (f *fleet) shares(ctx context.Context, names ...string) (owned map[string]int, err error) {
	err = until(ctx, "an equal share of the accounts for each of the nodes "+strings.Join(names, ", "), func() (bool, error) {
		nodes, free, err := f.db.Nodes(ctx)
		if err != nil {
			return false, err
		}
		owned = map[string]int{}
		least, most, total := free, 0, free
		for i, n := range nodes {
			owned[n.Name] = n.Parts
			if i == 0 {
				least = n.Parts
			}
			least, most, total = min(least, n.Parts), max(most, n.Parts), total+n.Parts
		}
		equal := free == 0 && len(nodes) == len(names) && most-least <= total/10
		for _, name := range names {
			equal = equal && owned[name] > 0
		}
		return equal, nil
	})
	return owned, err
}

// until asks until the answer is yes.
func until(ctx context.Context, what string, yes func() (bool, error)) error {
	ctx, cancel := context.WithTimeout(ctx, nodePatience)
	defer cancel()
	tick := time.NewTicker(50 * time.Millisecond)
	defer tick.Stop()
	for {
		ok, err := yes()
		if ok {
			return nil
		}
		select {
		case <-ctx.Done():
			return fmt.Errorf("%s did not come: %w", what, errors.Join(ctx.Err(), err))
		case <-tick.C:
		}
	}
}

// call calls the API of a node and decodes the answer; into is nil for one that does not
// matter.
func (m *member) call(ctx context.Context, method, path string, body, into any) (err error) {
	text, err := json.Marshal(body)
	if err != nil {
		return err
	}
	req, err := http.NewRequestWithContext(ctx, method, "http://"+m.http+path, bytes.NewReader(text))
	if err != nil {
		return err
	}
	req.Header.Set("Content-Type", "application/json")
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, resp.Body.Close()) }()
	answer, err := io.ReadAll(resp.Body)
	if err != nil {
		return err
	}
	if resp.StatusCode >= http.StatusMultipleChoices {
		return fmt.Errorf("%s %s at node %s: %s: %s", method, path, m.name, resp.Status, answer)
	}
	if into == nil {
		return nil
	}
	return json.Unmarshal(answer, into)
}
