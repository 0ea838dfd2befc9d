package api

import (
	"bufio"
	"bytes"
	"encoding/json"
	"errors"
	"io"
	"net/http"
	"os"
	"sync"
	"time"

	"github.com/danielgtaylor/huma/v2"

	"github.com/heartline-mqtt/heartline/delivery"
	"github.com/heartline-mqtt/heartline/wire"
)

// How much of a batch may be on its way into the store at once: enough lines to
// share commits, and no more bytes than a few calls of the ordinary kind hold.
const (
	batchLines = 256
	batchBytes = 8 << 20
	batchGrain = 64 << 10 // bytes are counted in these
)

func (a *API) registerBatch() {
	const lines = "application/x-ndjson"
	raw(a, huma.Operation{
		OperationID: "notify-batch", Method: http.MethodPost, Path: "/v1/notifications/batch",
		Summary: "Notify many, a line each",
		Description: "The body is newline-delimited JSON: each line is the body of POST /v1/notifications. So is the answer: a result for each line that " +
			"is not empty, in order, written while the request is still read. A line that is refused is refused alone. " +
			"Read the answer while you write: a client that does not read is cut off. Where the server ends the batch (408, 503) the last result says so, " +
			"and the answer has no proper end. A line without a result may have been accepted; with an id it can be sent again.",
		Responses: map[string]*huma.Response{"200": {
			Description: "The results",
			Content:     map[string]*huma.MediaType{lines: {Schema: schemaOf[wire.BatchResult](a)}},
		}},
		Errors: []int{http.StatusUnsupportedMediaType},
	}, &huma.RequestBody{Required: true, Content: map[string]*huma.MediaType{
		lines: {Schema: schemaOf[wire.Notification](a)},
	}}, a.batch)
}

// batchSlot is a line on its way to its result.
type batchSlot struct {
	line   int
	grains int
	result chan wire.BatchResult // takes one without blocking
}

// batch reads on one goroutine and writes on another; a third ends the reading where
// the server closes or the client does not take results. The slots between them keep
// the order and bound the lines in flight: from a client that does not read its results,
// the server reads no further lines.
func (a *API) batch(w http.ResponseWriter, r *http.Request, _ *struct{}) error {
	if err := takes(r, "application/x-ndjson", "application/ndjson", "application/jsonl", "application/json"); err != nil {
		return err
	}
	rc := http.NewResponseController(w)
	// HTTP/1.1 would read the whole body before the first result goes out.
	if err := rc.EnableFullDuplex(); err != nil && !errors.Is(err, http.ErrNotSupported) {
		return err
	}
	w.Header().Set("Content-Type", "application/x-ndjson")
	w.WriteHeader(http.StatusOK)
	if err := rc.Flush(); err != nil { // a client may wait for the head before it writes on
		return nil //nolint:nilerr // the client has gone: nobody is left to be told
	}

	slots := make(chan *batchSlot, batchLines)
	grains := make(chan struct{}, batchBytes/batchGrain)
	stop := make(chan struct{}) // reading is of no use any more
	read := make(chan struct{}) // reading is over
	var others sync.WaitGroup
	others.Go(func() {
		defer close(stop)
		a.writeResults(w, rc, slots, grains)
	})
	others.Go(func() {
		select {
		case <-read:
			return
		case <-stop:
		case <-a.closing:
		}
		select {
		case <-read: // the writer has written all there was: the connection goes on
			return
		default:
		}
		_ = rc.SetReadDeadline(time.Now()) // a read under way ends; not every writer can
	})
	ended := a.readLines(r, rc, slots, grains, stop)
	close(read)
	close(slots)
	others.Wait()
	if !ended {
		// Abort: the client would take a proper end for the complete answer, and the rest
		// of the body must not be read as the next request.
		_ = rc.SetReadDeadline(time.Now())
		panic(http.ErrAbortHandler)
	}
	return nil
}

// readLines hands the lines to the core until the body ends, which it reports, or
// reading it does.
func (a *API) readLines(r *http.Request, rc *http.ResponseController, slots chan<- *batchSlot, grains chan<- struct{}, stop <-chan struct{}) (ended bool) {
	lines := lineReader{r: bufio.NewReaderSize(r.Body, batchGrain)}
	for n := 1; ; n++ {
		waits := !lines.ready()
		if waits {
			_ = rc.SetReadDeadline(time.Now().Add(a.timing.read)) // not every writer can
		}
		// After that: it may have undone the deadline that ends the reading.
		select {
		case <-stop:
			return false
		case <-a.closing:
			a.cutOff(r, n, slots, stop, delivery.ErrStopped)
			return false
		default:
		}
		text, err := lines.next()
		// The server reads on by itself once the body has ended, to learn whether the
		// client is still there, and would take a deadline for the connection's end.
		if waits {
			_ = rc.SetReadDeadline(time.Time{})
		}
		if errors.Is(err, io.EOF) {
			return true
		}
		if err != nil && !errors.Is(err, errLongLine) {
			a.log.Info("batch ended early", "remote", r.RemoteAddr, "line", n, "error", err)
			select {
			case <-a.closing:
				a.cutOff(r, n, slots, stop, delivery.ErrStopped)
			default:
				if errors.Is(err, os.ErrDeadlineExceeded) {
					a.cutOff(r, n, slots, stop, newProblem(http.StatusRequestTimeout, codeTimeout, "nothing came for %s: send this line and those after it again", a.timing.read))
				}
			}
			return false
		}
		if err == nil && len(bytes.TrimSpace(text)) == 0 {
			continue
		}
		slot := &batchSlot{line: n, grains: len(text)/batchGrain + 1, result: make(chan wire.BatchResult, 1)}
		for range slot.grains {
			select {
			case grains <- struct{}{}:
			case <-stop:
				return false
			}
		}
		select {
		case slots <- slot:
		case <-stop:
			return false
		}
		if err != nil {
			slot.result <- a.refused(r, slot.line, "", tooLarge())
			continue
		}
		a.acceptLine(r, slot, text)
	}
}

// cutOff says in a last result why the line, and those after it, are not read.
func (a *API) cutOff(r *http.Request, line int, slots chan<- *batchSlot, stop <-chan struct{}, why error) {
	slot := &batchSlot{line: line, result: make(chan wire.BatchResult, 1)}
	slot.result <- a.refused(r, line, "", why)
	select {
	case slots <- slot:
	case <-stop:
	}
}

func (a *API) acceptLine(r *http.Request, slot *batchSlot, text []byte) {
	request, err := a.request(text)
	if err != nil {
		slot.result <- a.refused(r, slot.line, idOf(text), err)
		return
	}
	if err := mayActFor(r.Context(), request.Account); err != nil {
		slot.result <- a.refused(r, slot.line, request.ID, err)
		return
	}
	begun := time.Now()
	a.core.AcceptAsync(request, func(receipt delivery.Receipt, err error) {
		if err != nil {
			slot.result <- a.refused(r, slot.line, request.ID, err)
			return
		}
		a.metrics.Accepted(time.Since(begun), receipt.Repeated)
		n := wire.NewAccepted(receipt)
		slot.result <- wire.BatchResult{
			Line: slot.line, Status: statusOf(receipt), ID: n.ID, Account: n.Account, State: n.State, AcceptedAt: n.AcceptedAt, Deliveries: n.Deliveries,
		}
	})
}

func (a *API) refused(r *http.Request, line int, id string, err error) wire.BatchResult {
	p := a.problem(r.Context(), err)
	return wire.BatchResult{Line: line, Status: p.Status, ID: id, Title: p.Title, Code: string(p.code), Detail: p.Detail}
}

// idOf finds the ID of a line that was refused, so that its sender knows it again.
func idOf(text []byte) string {
	var n struct {
		ID string `json:"id"`
	}
	_ = json.Unmarshal(text, &n) // it may be anything
	return clip(n.ID)
}

// writeResults writes the results in the order of their lines. It returns when
// there are no more, or when the client does not take them.
func (a *API) writeResults(w http.ResponseWriter, rc *http.ResponseController, slots <-chan *batchSlot, grains <-chan struct{}) {
	unflushed := false
	var armed time.Time
	flush := func() bool {
		unflushed = false
		return rc.Flush() == nil
	}
	for {
		var slot *batchSlot
		var open bool
		select {
		case slot, open = <-slots:
		default:
			if unflushed && !flush() {
				return
			}
			slot, open = <-slots
		}
		if !open {
			flush()
			return
		}
		var result wire.BatchResult
		select {
		case result = <-slot.result:
		default:
			if unflushed && !flush() {
				return
			}
			result = <-slot.result // a commit away
		}
		for range slot.grains {
			<-grains
		}
		text, err := json.Marshal(result)
		if err != nil {
			a.log.Error("batch result not written", "line", slot.line, "error", err)
			return
		}
		if now := time.Now(); now.Sub(armed) > a.timing.write/4 {
			armed = now
			_ = rc.SetWriteDeadline(now.Add(a.timing.write)) // not every writer can
		}
		if _, err := w.Write(append(text, '\n')); err != nil {
			return
		}
		unflushed = true
	}
}

var errLongLine = errors.New("line too long")

// lineReader cuts a body into lines of at most maxBody bytes.
type lineReader struct {
	r    *bufio.Reader
	line []byte
}

// ready reports whether the next line is there, so that reading it waits for
// nobody.
func (l *lineReader) ready() bool {
	there, _ := l.r.Peek(l.r.Buffered()) // no more than there is
	return bytes.IndexByte(there, '\n') >= 0
}

// next returns a line without its end, good until the next call. A line that is too long is read
// over and gives errLongLine. The last line need not end in a newline, but the body
// must have ended well: half a line of a client that has gone is none.
func (l *lineReader) next() ([]byte, error) {
	l.line = l.line[:0]
	long := false
	for {
		part, err := l.r.ReadSlice('\n')
		if long = long || len(l.line)+len(part) > maxBody; !long {
			l.line = append(l.line, part...)
		}
		switch {
		case errors.Is(err, bufio.ErrBufferFull):
			continue
		case errors.Is(err, io.EOF) && (len(l.line) > 0 || long):
		case err != nil:
			return nil, err
		}
		if long {
			return nil, errLongLine
		}
		return bytes.TrimRight(l.line, "\r\n"), nil
	}
}
