package delivery

import (
	"context"
	"fmt"
)

// EraseAccount forgets an account: its devices and their registrations, its
// notifications and their timelines. When it returns, nothing of it can be read.
// An account of which nothing is known is no error.
func (c *Core) EraseAccount(ctx context.Context, accountName string) error {
	if err := ValidAccount(accountName); err != nil {
		return err
	}
	var until Seq // whoever signs in meanwhile keeps what comes after it
	err := c.withAccount(accountName, func(a *account) error {
		until = Seq(c.clock.next())
		for len(a.devices) > 0 {
			c.drop(a.devices[0], "account erased")
		}
		if a.held != nil {
			c.end(a.held, "account erased")
			a.held = nil
		}
		return nil
	})
	if err != nil {
		return err
	}
	if err := c.flush(ctx, true); err != nil {
		return err
	}
	for {
		var seqs []Seq
		err := c.out.List(accountName, until, func(n *Notification) bool {
			seqs = append(seqs, n.Seq)
			return len(seqs) < eraseStep
		})
		if err != nil {
			return fmt.Errorf("list the notifications of account %s: %w", accountName, err)
		}
		if len(seqs) == 0 {
			return nil
		}
		if err := c.erase(ctx, seqs); err != nil {
			return err
		}
	}
}

// eraseStep is how many notifications one commit erases.
const eraseStep = 500

// Erase cancels a notification and erases its content and its timeline.
func (c *Core) Erase(ctx context.Context, id string) error {
	n, err := c.Find(id)
	if err != nil {
		return err
	}
	if err := c.Cancel(ctx, id); err != nil {
		return err
	}
	return c.erase(ctx, []Seq{n.Seq})
}

func (c *Core) erase(ctx context.Context, seqs []Seq) error {
	c.mu.Lock()
	if c.stopped {
		c.mu.Unlock()
		return ErrStopped
	}
	c.commitPending()
	c.out.Commit(&Batch{Erase: seqs, Sync: true}, func(error) {})
	c.mu.Unlock()
	return c.flush(ctx, true)
}
