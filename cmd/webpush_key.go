package cmd

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"

	"github.com/spf13/cobra"

	"github.com/heartline-mqtt/heartline/internal/credentials"
)

func (p *program) webPushKeyCommand() *cobra.Command {
	cmd := &cobra.Command{
		Use: "webpush-key [FILE]", Short: "Make the key that browsers are pushed to with", GroupID: groupServer,
		Long: `Makes an application server key (P-256) for fallback.webpush.key_file and prints its
public half, which a page gives to PushManager.subscribe. FILE is never overwritten.
Without FILE the key goes to the output, and the public half to the error output.

A browser's subscription is bound to this key for life. Keep a copy of FILE: losing
it loses every browser.

With --public it prints the public half of a key that is there.`,
		Example: `  heartline webpush-key /etc/heartline/webpush.pem
  heartline webpush-key --public /etc/heartline/webpush.pem`,
	}
	public := cmd.Flags().Bool("public", false, "print the public half of the key in FILE, and make none")
	cmd.Args = func(_ *cobra.Command, args []string) error {
		if len(args) > 1 || len(args) == 0 && *public {
			return usagef("give one FILE: heartline webpush-key --public FILE prints the public half, heartline webpush-key [FILE] makes a key")
		}
		return nil
	}
	cmd.RunE = p.action(func(_ context.Context, args []string) error {
		if len(args) == 0 {
			return p.printWebPushKey()
		}
		if !*public {
			if err := makeWebPushKey(args[0]); err != nil {
				return err
			}
		}
		text, err := os.ReadFile(args[0])
		if err != nil {
			return fmt.Errorf("read the key: %w", err)
		}
		half, err := publicHalf(text)
		if err != nil {
			return fmt.Errorf("%s: %w", args[0], err)
		}
		fmt.Fprintln(p.Stdout, half)
		return nil
	})
	return cmd
}

// printWebPushKey prints a new key and its public half.
func (p *program) printWebPushKey() error {
	text, err := credentials.GenerateVAPIDKey()
	if err != nil {
		return fmt.Errorf("make a key: %w", err)
	}
	half, err := publicHalf(text)
	if err != nil {
		return err
	}
	if _, err := p.Stdout.Write(text); err != nil {
		return fmt.Errorf("write the key: %w", err)
	}
	fmt.Fprintln(p.Stderr, half)
	return nil
}

func publicHalf(text []byte) (string, error) {
	key, err := credentials.ParseVAPIDKey(text)
	if err != nil {
		return "", err
	}
	return credentials.VAPIDPublicKey(key)
}

// makeWebPushKey writes a new key into a new file that its owner alone can read. The key
// is on the disk when it returns.
func makeWebPushKey(name string) (err error) {
	key, err := credentials.GenerateVAPIDKey()
	if err != nil {
		return fmt.Errorf("make a key: %w", err)
	}
	f, err := os.OpenFile(name, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600)
	if errors.Is(err, fs.ErrExist) {
		return fmt.Errorf("%s exists and is not overwritten: browsers that subscribed with its key would be lost; choose another name, or print its public half with --public", name)
	}
	if err != nil {
		return fmt.Errorf("write the key: %w", err)
	}
	defer func() {
		if closed := f.Close(); err == nil && closed != nil {
			err = fmt.Errorf("write the key: %w", closed)
		}
	}()
	if _, err := f.Write(key); err != nil {
		return fmt.Errorf("write the key: %w", err)
	}
	if err := f.Sync(); err != nil {
		return fmt.Errorf("write the key: %w", err)
	}
	return nil
}
