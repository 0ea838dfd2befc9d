package ordinary

import (
	"strings"
	"testing"
	"time"
)

// slowDisk has one retained message, which takes a while to read.
type slowDisk struct {
	message *Message
	reading chan struct{} // gets one for each read
	goOn    chan struct{}
}

func (d *slowDisk) Load(string) (*Message, error) {
	d.reading <- struct{}{}
	<-d.goOn
	return d.message, nil
}

// TestAnswersWhileTheDiskIsRead: a message to a topic whose retained message has to be read
// first, for a replay that has not come to it, holds up no answers to its receivers.
func TestAnswersWhileTheDiskIsRead(t *testing.T) {
	t.Parallel()
	for _, retain := range []bool{false, true} {
		d := &slowDisk{&Message{TopicName: "t", Payload: []byte("old"), QoS: 1, Retain: true}, make(chan struct{}, 1), make(chan struct{})}
		h, _ := hubAt(Options{Disk: d})
		h.ImportRetained(d.message)
		s, link := join(h, "c")
		subscribeTo(t, h, s, link, "t", 1)
		published := make(chan error)
		go func() {
			_, err := h.Publish(&Message{TopicName: "t", Payload: []byte("new"), QoS: 1, Retain: retain})
			published <- err
		}()
		<-d.reading
		answered := make(chan bool, 1)
		go func() { answered <- s.Answer(link, 0xd0, 0) }()
		select {
		case <-answered:
		case <-time.After(20 * time.Second):
			t.Error("a PINGREQ is not answered while the disk is read")
		}
		close(d.goOn)
		if err := <-published; err != nil {
			t.Fatal(err)
		}
		got := filled(s, link)
		if first, second := strings.Index(got, "old"), strings.Index(got, "new"); first < 0 || second < first {
			t.Errorf("got %q, want the retained message and then the live one", got)
		}
		if s.Feed(link); filled(s, link) != "" {
			t.Error("the replay sends the topic's message once more")
		}
	}
}
