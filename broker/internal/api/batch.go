package api

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"io"
	"mime"
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
	batchSkip  = 64 << 20 // of a body that is not taken any further, read over for the sake of the results
)

// batchLast is how long the server reads over the rest of a body before it cuts off a
// caller whose credentials have ended.
const batchLast = 5 * time.Second

func (a *API) registerBatch() {
	const lines = "application/x-ndjson"
	raw(a, huma.Operation{
		OperationID: "notify-batch", Method: http.MethodPost, Path: "/v1/notifications/batch",
		Summary: "Send many notifications, one per line or array element",
		Description: "The body is newline-delimited JSON: each line is the body of POST /v1/notifications. So is the answer: a result for each line that " +
			"is not empty, in order, written while the request is still read. A line that is refused is refused alone. " +
			"Read the answer while you write: a client that does not read is cut off. Where the server ends the batch (401, 408, 503) the last result says so, " +
			"and the answer has no proper end. A line without a result may have been accepted; with an id it can be sent again. " +
			"A body of the type application/json that is an array is a batch, too: its answer is an array of results, and their line counts the elements from 1. " +
			"Where the array is broken JSON the last result says so; the elements before it have their own.",
		Responses: map[string]*huma.Response{"200": {
			Description: "The results",
			Content: map[string]*huma.MediaType{
				lines:              {Schema: schemaOf[wire.BatchResult](a)},
				"application/json": {Schema: &huma.Schema{Type: huma.TypeArray, Items: schemaOf[wire.BatchResult](a)}},
			},
		}},
		Errors: []int{http.StatusUnsupportedMediaType},
	}, &huma.RequestBody{Required: true, Content: map[string]*huma.MediaType{
		lines:              {Schema: schemaOf[wire.Notification](a)},
		"application/json": {Schema: &huma.Schema{Type: huma.TypeArray, Items: schemaOf[wire.Notification](a)}},
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
	var in batchReader = &lineReader{r: bufio.NewReaderSize(r.Body, batchGrain)}
	form := &batchForm{contentType: "application/x-ndjson"}
	if t, _, _ := mime.ParseMediaType(r.Header.Get("Content-Type")); t == "application/json" {
		body := bufio.NewReaderSize(r.Body, batchGrain)
		if in = (&lineReader{r: body}); beginsArray(body) {
			in = newArrayReader(body)
			form = &batchForm{contentType: "application/json", begin: "[", between: ",", end: "]\n"}
		}
	}
	w.Header().Set("Content-Type", form.contentType)
	w.WriteHeader(http.StatusOK)
	if err := rc.Flush(); err != nil { // a client may wait for the head before it writes on
		return nil //nolint:nilerr // the client has gone: nobody is left to be told
	}
	_ = rc.SetWriteDeadline(time.Time{}) // writeResults sets one for each write

	slots := make(chan *batchSlot, batchLines)
	grains := make(chan struct{}, batchBytes/batchGrain)
	stop := make(chan struct{}) // reading is of no use any more
	read := make(chan struct{}) // reading is over
	var others sync.WaitGroup
	others.Go(func() {
		defer close(stop)
		a.writeResults(w, rc, form, slots, grains)
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
	ended := a.readLines(r, rc, in, slots, grains, stop)
	form.ended = ended // the writer looks once slots is closed
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
// reading it does, or the caller's credentials do.
func (a *API) readLines(r *http.Request, rc *http.ResponseController, lines batchReader, slots chan<- *batchSlot, grains chan<- struct{}, stop <-chan struct{}) (ended bool) {
	who := callerOf(r.Context())
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
			a.cutOff(r, n, "", slots, stop, delivery.ErrStopped)
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
		broken, isBroken := errors.AsType[*brokenArray](err)
		readFailed := err != nil && !isBroken && !errors.Is(err, errLongLine)
		// Before the test for an empty line: those, too, keep a batch open.
		if gone := who.Check(time.Now()); gone != nil {
			a.log.Info("batch ended early", "remote", r.RemoteAddr, "line", n, "error", gone)
			a.cutOff(r, n, idOf(text), slots, stop, newProblem(http.StatusUnauthorized, codeUnauthenticated,
				"%s since the batch began: get a new token, and send this line and those after it again", gone))
			if !readFailed {
				a.skipRest(r, rc, stop, batchLast)
			}
			return false
		}
		if isBroken {
			a.cutOff(r, n, "", slots, stop, broken.problem)
			a.skipRest(r, rc, stop, a.timing.read)
			return true
		}
		if readFailed {
			a.log.Info("batch ended early", "remote", r.RemoteAddr, "line", n, "error", err)
			select {
			case <-a.closing:
				a.cutOff(r, n, "", slots, stop, delivery.ErrStopped)
			default:
				if errors.Is(err, os.ErrDeadlineExceeded) {
					a.cutOff(r, n, "", slots, stop, newProblem(http.StatusRequestTimeout, codeTimeout, "nothing came for %s: send this line and those after it again", a.timing.read))
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

// skipRest reads over the rest of the body: a connection that is closed with unread bytes
// takes the results away from a client that still writes.
func (a *API) skipRest(r *http.Request, rc *http.ResponseController, stop <-chan struct{}, atMost time.Duration) {
	_ = rc.SetReadDeadline(time.Now().Add(atMost)) // not every writer can
	// After that: it may have undone the deadline that ends the reading.
	select {
	case <-stop:
		_ = rc.SetReadDeadline(time.Now())
		return
	case <-a.closing:
		_ = rc.SetReadDeadline(time.Now())
		return
	default:
	}
	if _, err := io.CopyN(io.Discard, r.Body, batchSkip); errors.Is(err, io.EOF) {
		_ = rc.SetReadDeadline(time.Time{}) // otherwise it stays: the server reads on when the call returns
	}
}

// cutOff says in a last result why the line, and those after it, are not read.
func (a *API) cutOff(r *http.Request, line int, id string, slots chan<- *batchSlot, stop <-chan struct{}, why error) {
	slot := &batchSlot{line: line, result: make(chan wire.BatchResult, 1)}
	slot.result <- a.refused(r, line, id, why)
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
	// The problem of a line is not the answer's, and several lines are refused at a time.
	p := a.problem(context.WithValue(r.Context(), answerKey{}, nil), err)
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
func (a *API) writeResults(w http.ResponseWriter, rc *http.ResponseController, form *batchForm, slots <-chan *batchSlot, grains <-chan struct{}) {
	unflushed := false
	var armed time.Time
	arm := func() {
		if now := time.Now(); now.Sub(armed) > a.timing.write/4 {
			armed = now
			_ = rc.SetWriteDeadline(now.Add(a.timing.write)) // not every writer can
		}
	}
	// flush also takes the deadline back: over HTTP/2 one that passes while the next result is
	// awaited resets the stream.
	flush := func() bool {
		if rc.Flush() != nil {
			return false
		}
		unflushed, armed = false, time.Time{}
		_ = rc.SetWriteDeadline(armed)
		return true
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
			// The server writes the end of the answer with this deadline.
			arm()
			if form.ended { // otherwise no client may take it for the whole
				_, _ = io.WriteString(w, form.finish())
			}
			_ = rc.Flush()
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
		arm()
		if _, err := w.Write(append([]byte(form.before()), append(text, '\n')...)); err != nil {
			return
		}
		unflushed = true
	}
}

// batchForm is how results are written: a line each, or as an array.
type batchForm struct {
	contentType         string
	begin, between, end string
	begun, ended        bool
}

// before returns what stands before the next result.
func (f *batchForm) before() string {
	if f.begun {
		return f.between
	}
	f.begun = true
	return f.begin
}

func (f *batchForm) finish() string {
	if f.begun {
		return f.end
	}
	return f.begin + f.end
}

// batchReader cuts a body into notifications.
type batchReader interface {
	// ready reports whether next returns without a read.
	ready() bool
	// next returns one, good until the next call; io.EOF is the end of the body.
	next() ([]byte, error)
}

// beginsArray reports whether a body is a JSON array. It waits for the first byte that is
// not a space.
func beginsArray(r *bufio.Reader) bool {
	for n := 1; n <= r.Size(); n++ {
		there, err := r.Peek(n)
		if err != nil {
			return false
		}
		if c := there[n-1]; c != ' ' && c != '\t' && c != '\r' && c != '\n' {
			return c == '['
		}
	}
	return false
}

// maxElement is how much of one element is read: a longer one ends the batch. One between
// maxBody and it is refused alone. The double leaves room for the decoder's read-ahead.
const maxElement = 2 * maxBody

// arrayReader returns the elements of an array, each of at most maxBody bytes.
type arrayReader struct {
	source  io.Reader
	read    int // bytes since the last element
	decoder *json.Decoder
	begun   bool
}

// brokenArray is an array that cannot be read further.
type brokenArray struct{ *problem }

func newArrayReader(r io.Reader) *arrayReader {
	a := &arrayReader{source: r}
	a.decoder = json.NewDecoder(a)
	return a
}

// Read implements io.Reader for the decoder, which has no bound of its own.
func (r *arrayReader) Read(b []byte) (int, error) {
	if r.read > maxElement {
		return 0, &brokenArray{tooLarge()}
	}
	n, err := r.source.Read(b)
	r.read += n
	return n, err
}

func (r *arrayReader) ready() bool { return false }

func (r *arrayReader) next() ([]byte, error) {
	r.read = 0
	text, err := r.element()
	if _, syntax := errors.AsType[*json.SyntaxError](err); syntax || errors.Is(err, io.ErrUnexpectedEOF) {
		return nil, &brokenArray{invalid(&fault{Location: "body", Message: "must be a JSON array of notifications, and is broken in this element: " + err.Error()})}
	}
	return text, err
}

func (r *arrayReader) element() ([]byte, error) {
	if !r.begun {
		r.begun = true
		if _, err := r.decoder.Token(); err != nil {
			return nil, err
		}
	}
	if r.decoder.More() {
		var text json.RawMessage
		if err := r.decoder.Decode(&text); err != nil {
			return nil, unended(err)
		}
		if len(text) > maxBody {
			return nil, errLongLine
		}
		return text, nil
	}
	if _, err := r.decoder.Token(); err != nil {
		return nil, unended(err)
	}
	if _, err := r.decoder.Token(); !errors.Is(err, io.EOF) {
		if err != nil {
			return nil, err
		}
		return nil, &brokenArray{invalid(&fault{Location: "body", Message: "must be one JSON array, and goes on after its end"})}
	}
	return nil, io.EOF
}

// unended makes an error of the end of a body inside the array.
func unended(err error) error {
	if errors.Is(err, io.EOF) {
		return io.ErrUnexpectedEOF
	}
	return err
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
