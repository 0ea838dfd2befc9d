package xmpp_test

import (
	"bufio"
	"io"
	"net"
	"os"
	"os/exec"
	"strings"
	"testing"
	"time"

	"github.com/heartline-mqtt/heartline/internal/testtool"
	"github.com/heartline-mqtt/heartline/xmpp"
)

// TestSlixmpp: a client on a library of other people registers, is notified, loses its
// network, is pushed, returns and acks.
func TestSlixmpp(t *testing.T) {
	t.Parallel()
	const python = "/usr/bin/python3" // Debian's, which has Debian's slixmpp
	if exec.Command(python, "-c", "import slixmpp").Run() != nil {
		testtool.LeaveOut(t, "slixmpp is missing", "apt-get install python3-slixmpp")
	}
	eachServer(t, func(w *world) {
		const user = "user11"
		account, token := user+"@"+w.server.Host, strings.Repeat("ab", 32)
		p := &phone{w: w, user: user, account: account, device: xmpp.DeviceID(account, "phone"), token: token}
		run := func(args ...string) (lines *bufio.Scanner, in io.WriteCloser, cmd *exec.Cmd) {
			host, port, err := net.SplitHostPort(w.server.ClientAddress)
			if err != nil {
				w.t.Fatal(err)
			}
			cmd = exec.Command(python, append([]string{"client.py", host, port, account, w.server.Component, "phone", token}, args...)...)
			cmd.Stderr = os.Stderr
			in, inErr := cmd.StdinPipe()
			out, outErr := cmd.StdoutPipe()
			if inErr != nil || outErr != nil {
				w.t.Fatal(inErr, outErr)
			}
			if err := cmd.Start(); err != nil {
				w.t.Fatal(err)
			}
			w.t.Cleanup(func() { _ = cmd.Process.Kill() })
			lines = bufio.NewScanner(out)
			if !lines.Scan() || lines.Text() != "ready "+p.device {
				w.t.Fatalf("the client said %q", lines.Text())
			}
			return lines, in, cmd
		}
		up := func() bool {
			d, err := w.broker.Core().Device(p.account, p.device)
			return err == nil && d.Up
		}
		lines, in, cmd := run()
		w.await("the device", up)
		id := p.notify("")
		if !lines.Scan() || !strings.Contains(lines.Text(), id) {
			w.t.Fatalf("the client said %q", lines.Text())
		}
		w.until(id, "received")
		if _, err := io.WriteString(in, "kill\n"); err != nil {
			w.t.Fatal(err)
		}
		_ = cmd.Wait()
		id = p.notify("")
		w.until(id, "pushed")
		if p.pushes() != 1 {
			w.t.Errorf("%d pushes", p.pushes())
		}
		lines, in, cmd = run()
		if !lines.Scan() || !strings.Contains(lines.Text(), id) {
			w.t.Fatalf("the client said %q", lines.Text())
		}
		w.until(id, "received")
		_ = in.Close()
		_ = cmd.Wait()

		// A client that does not know the namespace: its library refuses the IQ, which ends the
		// ack window at once, and there is one push.
		since := func() time.Time {
			d, err := w.broker.Core().Device(p.account, p.device)
			if err != nil {
				w.t.Fatal(err)
			}
			return d.Since
		}
		former := since() // that session hibernates
		_, in, cmd = run("deaf")
		w.await("the session", func() bool { return since().After(former) && up() })
		before := p.pushes()
		id = p.notify("")
		v := w.until(id, "pushed")
		w.want(id, "accepted", "published", "nacked", "push_requested", "pushed")
		if d := after(v, "nacked"); d >= w.cfg.Delivery.AckWindow {
			w.t.Errorf("refused after %s", d)
		}
		if n := p.pushes() - before; n != 1 {
			w.t.Errorf("%d pushes", n)
		}
		_ = in.Close()
		_ = cmd.Wait()
	})
}
