// Package listener brings connections to a mochi server, and takes from them what
// a client can do to it.
//
// A [Listener] serves TCP or TLS; a [WebSocket] is an http.Handler. Both are
// mochi's listeners.Listener, so that any *mqtt.Server can be given one, and both
// are the same machinery: a [Conn] reads its CONNECT before mochi hears of it,
// has its packets checked by hooks/strict, and never makes a writer wait for the
// peer.
//
// Read front.go first (the life of a connection), then conn.go (what mochi sees
// of it), sender.go (how bytes leave), gate.go (admission), and last the two
// fronts, listener.go and websocket.go.
//
// A connection of a WebSocket, or of a Listener without Options.Sessions, has one
// goroutine that runs everything about it, mochi's reading loop included. With
// Options.Sessions a connection has a goroutine until its CONNECT has been read. After
// that one goroutine reads from all, and handles the packets that need no waiting; every
// other packet gets the connection a worker: see turns.go (who reads when),
// poller_linux.go (the epoll descriptor) and session.go (mochi's part, and the Prompter).
// In both cases another goroutine exists while the peer does not take sent data. All end
// when the connection does. Serve runs on the caller's goroutine until Close;
// Close returns when every goroutine of the front has ended, or after
// Options.CloseTimeout if one of mochi's hooks holds one back.
//
// What holds:
//
//   - A connection that has not sent its CONNECT costs a goroutine of the smallest
//     size and some two kilobytes; mochi has allocated nothing for it. It is gone
//     ConnectTimeout after it was accepted, whatever it sends.
//   - Write does not block. What the peer does not take waits in a queue of its
//     own; a peer that takes nothing for WriteTimeout is cut, and so is one whose
//     queue is full. Part of a packet is never followed by anything else.
//   - A panic under one connection ends that connection.
//   - Accepting goes on after every error but the end of the listening socket.
//
// The package imports hooks/strict, mochi, and gorilla/websocket, which mochi
// brings along.
package listener
