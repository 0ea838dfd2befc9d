package cmd

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"strings"
	"time"

	"github.com/spf13/cobra"
	"golang.org/x/term"

	"github.com/heartline-mqtt/heartline/auth"
	"github.com/heartline-mqtt/heartline/config"
)

// usersFile adds --file to a command; the returned function finds the users file.
func (p *program) usersFile(cmd *cobra.Command) func() (string, error) {
	cmd.Flags().String("file", "", "users `file` (default: auth.file.path of the configuration)")
	src := p.configSource(cmd).hideServer()
	return func() (string, error) {
		if f, _ := cmd.Flags().GetString("file"); f != "" {
			return f, nil
		}
		path, err := config.UsersFile(src.source())
		if err == nil && path == "" {
			err = usagef("say which file: --file, or auth.file.path in the configuration")
		}
		return path, err
	}
}

func (p *program) userCommand() *cobra.Command {
	cmd := &cobra.Command{
		Use: "user", Short: "Add, remove or list the users of auth.mode file", GroupID: groupServer, Args: cobra.NoArgs,
		RunE: func(*cobra.Command, []string) error {
			return usagef("say what to do: user add, user remove or user list")
		},
	}
	cmd.AddCommand(p.userAddCommand(), p.removeCommand("user", "remove NAME", "Remove a user; its connections end within seconds", auth.RemoveUser), p.listCommand("users", auth.Users))
	return cmd
}

func (p *program) tokenCommand() *cobra.Command {
	cmd := &cobra.Command{
		Use: "token", Short: "Create, revoke or list API tokens of auth.mode file", GroupID: groupServer, Args: cobra.NoArgs,
		RunE: func(*cobra.Command, []string) error {
			return usagef("say what to do: token create, token revoke or token list")
		},
	}
	cmd.AddCommand(p.tokenCreateCommand(), p.removeCommand("token", "revoke NAME", "Revoke a token; its event streams end within seconds", auth.RemoveToken), p.listCommand("tokens", auth.Tokens))
	return cmd
}

func (p *program) userAddCommand() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "add NAME",
		Short: "Add a user, with a password from the terminal or standard input",
		Long: `Adds a user to the users file with an argon2id hash of the password. On a terminal
it asks twice; otherwise it reads the first line of standard input. A running server
takes the file up within seconds.`,
		Args: oneArg("NAME"),
	}
	file := p.usersFile(cmd)
	role := cmd.Flags().String("role", "", "`role`: device (the default), service or admin")
	accounts := cmd.Flags().StringSlice("accounts", nil, "`patterns` of the accounts that a service may act for, as acme-*; all if none")
	replace := cmd.Flags().Bool("replace", false, "replace an existing user: a new password; role and accounts stay unless they are given")
	cmd.RunE = p.action(func(ctx context.Context, args []string) error {
		if err := emptyAccounts(cmd, *accounts); err != nil {
			return err
		}
		path, err := file()
		if err != nil {
			return err
		}
		password, err := p.readPassword(ctx)
		if err != nil {
			return err
		}
		if err := auth.AddUser(path, auth.Entry{Name: args[0], Role: *role, Accounts: *accounts}, password, *replace); err != nil {
			return err
		}
		fmt.Fprintf(p.Stdout, "user %s is in %s\n", args[0], path)
		return nil
	})
	return cmd
}

// emptyAccounts refuses --accounts without a pattern, such as of a variable that is not set.
func emptyAccounts(cmd *cobra.Command, accounts []string) error {
	if cmd.Flags().Changed("accounts") && len(accounts) == 0 {
		return usagef("--accounts must not be empty: leave it out for all accounts")
	}
	return nil
}

func (p *program) tokenCreateCommand() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "create NAME",
		Short: "Create an API token and print it, once",
		Long: `Makes a random token, adds its SHA-256 to the users file and prints the token on
standard output. It is not stored anywhere and cannot be shown again.`,
		Args: oneArg("NAME"),
	}
	file := p.usersFile(cmd)
	role := cmd.Flags().String("role", "", "`role`: device, service or admin (default: device with --account, otherwise service)")
	account := cmd.Flags().String("account", "", "`account` of a device's token")
	accounts := cmd.Flags().StringSlice("accounts", nil, "`patterns` of the accounts that a service may act for, as acme-*; all if none")
	validFor := cmd.Flags().Duration("valid-for", 0, "`time` until it expires, as 720h; 0 for never")
	cmd.RunE = p.action(func(_ context.Context, args []string) error {
		if *validFor < 0 {
			return usagef("--valid-for must not be below 0")
		}
		if err := emptyAccounts(cmd, *accounts); err != nil {
			return err
		}
		if *role == "" && *account != "" {
			*role = "device"
		}
		path, err := file()
		if err != nil {
			return err
		}
		e := auth.Entry{Name: args[0], Role: *role, Account: *account, Accounts: *accounts}
		if *validFor > 0 {
			at := time.Now().Add(*validFor)
			e.Expires = &at
		}
		token := auth.NewToken()
		if err := auth.AddToken(path, e, token); err != nil {
			return err
		}
		fmt.Fprintln(p.Stdout, token)
		return nil
	})
	return cmd
}

func (p *program) removeCommand(kind, use, short string, remove func(path, name string) error) *cobra.Command {
	cmd := &cobra.Command{Use: use, Short: short, Args: oneArg("NAME")}
	file := p.usersFile(cmd)
	cmd.RunE = p.action(func(_ context.Context, args []string) error {
		path, err := file()
		if err != nil {
			return err
		}
		if err := remove(path, args[0]); err != nil {
			return err
		}
		fmt.Fprintf(p.Stdout, "%s %s is no longer in %s\n", kind, args[0], path)
		return nil
	})
	return cmd
}

func (p *program) listCommand(kind string, list func(path string) ([]auth.Entry, error)) *cobra.Command {
	cmd := &cobra.Command{Use: "list", Short: "List the " + kind + ", without their hashes", Args: cobra.NoArgs}
	file := p.usersFile(cmd)
	asJSON := cmd.Flags().Bool("json", false, "as JSON")
	cmd.RunE = p.action(func(context.Context, []string) error {
		path, err := file()
		if err != nil {
			return err
		}
		entries, err := list(path)
		if err != nil {
			return err
		}
		if *asJSON {
			if entries == nil {
				entries = []auth.Entry{}
			}
			return p.printJSON(entries)
		}
		rows := [][]string{{"NAME", "ROLE", "ACCOUNTS", "EXPIRES"}}
		for _, e := range entries {
			accounts, expires := strings.Join(e.Accounts, ","), ""
			if e.Account != "" {
				accounts = e.Account
			}
			if e.Expires != nil {
				expires = e.Expires.In(p.local).Format(time.RFC3339)
			}
			rows = append(rows, []string{e.Name, e.Role, accounts, expires})
		}
		p.table(rows)
		return nil
	})
	return cmd
}

// readPassword asks on a terminal, and reads a line otherwise. It is never an
// argument: those are in the shell's history, and everybody on the machine sees them.
func (p *program) readPassword(ctx context.Context) ([]byte, error) {
	f, ok := p.Stdin.(*os.File)
	if !ok || !term.IsTerminal(int(f.Fd())) {
		line, err := bufio.NewReader(io.LimitReader(p.Stdin, 1<<16)).ReadBytes('\n')
		if err != nil && !errors.Is(err, io.EOF) {
			return nil, fmt.Errorf("read the password: %w", err)
		}
		return bytes.TrimRight(line, "\r\n"), nil
	}
	var answers [2][]byte
	for i, prompt := range []string{"Password: ", "Again: "} {
		fmt.Fprint(p.Stderr, prompt)
		var err error
		answers[i], err = readHidden(ctx, int(f.Fd()))
		fmt.Fprintln(p.Stderr)
		if err != nil {
			return nil, fmt.Errorf("read the password: %w", err)
		}
	}
	if !bytes.Equal(answers[0], answers[1]) {
		return nil, errors.New("the two passwords are not the same")
	}
	return answers[0], nil
}

// readHidden reads a line from a terminal that does not show it. When ctx ends, by Ctrl-C, it
// returns, and the terminal shows the typed text again.
func readHidden(ctx context.Context, fd int) ([]byte, error) {
	state, err := term.GetState(fd)
	if err != nil {
		return nil, err
	}
	type answer struct {
		line []byte
		err  error
	}
	answers := make(chan answer, 1)
	go func() {
		line, err := term.ReadPassword(fd)
		answers <- answer{line, err}
	}()
	select {
	case a := <-answers:
		return a.line, a.err
	case <-ctx.Done():
		return nil, errors.Join(errors.New("interrupted"), term.Restore(fd, state))
	}
}
