package auth_test

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"

	"github.com/heartline-mqtt/heartline/auth"
	"github.com/heartline-mqtt/heartline/config"
)

// A users file is made, and a client with a right and a wrong password checked.
func Example() {
	dir, err := os.MkdirTemp("", "auth")
	if err != nil {
		fmt.Println(err)
		return
	}
	defer os.RemoveAll(dir)
	path := filepath.Join(dir, "users.yaml")
	if err := auth.AddUser(path, auth.Entry{Name: "alice", Role: "device"}, []byte("correct horse"), false); err != nil {
		fmt.Println(err)
		return
	}
	cfg := config.Default().Auth
	cfg.Mode, cfg.File.Path = config.AuthFile, path
	a, err := auth.New(cfg, auth.Options{})
	if err != nil {
		fmt.Println(err)
		return
	}
	defer a.Close()

	id, err := a.Connect(context.Background(), auth.Credentials{ClientID: "phone", Username: "alice", Password: []byte("correct horse")})
	fmt.Println(id.Account, id.Service, err)
	_, err = a.Connect(context.Background(), auth.Credentials{ClientID: "phone", Username: "alice", Password: []byte("wrong")})
	fmt.Println(errors.Is(err, auth.ErrDenied))
	// Output:
	// alice false <nil>
	// true
}
