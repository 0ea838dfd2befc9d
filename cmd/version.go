package cmd

import (
	"context"
	"encoding/json"
	"fmt"
	"runtime"
	"runtime/debug"

	"github.com/spf13/cobra"

	"github.com/heartline-mqtt/heartline/broker"
)

// versions is what `version` tells.
type versions struct {
	Version  string `json:"version"` // of Heartline, as in CHANGELOG.md
	Commit   string `json:"commit,omitempty"`
	Modified bool   `json:"modified,omitempty"` // the working tree had changes
	Go       string `json:"go"`
	Platform string `json:"platform"`
	Mochi    string `json:"mochi_mqtt,omitempty"`
}

func (p *program) versionCommand() *cobra.Command {
	cmd := &cobra.Command{Use: "version", Short: "Print the version", Args: cobra.NoArgs}
	asJSON := cmd.Flags().Bool("json", false, "as JSON")
	cmd.RunE = p.action(func(context.Context, []string) error {
		info, _ := debug.ReadBuildInfo()
		v := versionsOf(info)
		if *asJSON {
			return p.printJSON(v)
		}
		fmt.Fprint(p.Stdout, "heartline ", v.Version)
		if v.Commit != "" {
			fmt.Fprint(p.Stdout, " (commit ", v.Commit)
			if v.Modified {
				fmt.Fprint(p.Stdout, ", modified")
			}
			fmt.Fprint(p.Stdout, ")")
		}
		fmt.Fprintf(p.Stdout, "\n%s %s\nmochi-mqtt %s\n", v.Go, v.Platform, v.Mochi)
		return nil
	})
	return cmd
}

// versionsOf reads what the linker knows; info is nil in a binary built without
// modules.
func versionsOf(info *debug.BuildInfo) versions {
	v := versions{Version: broker.Version(), Go: runtime.Version(), Platform: runtime.GOOS + "/" + runtime.GOARCH}
	if info == nil {
		return v
	}
	for _, s := range info.Settings {
		switch s.Key {
		case "vcs.revision":
			v.Commit = s.Value
		case "vcs.modified":
			v.Modified = s.Value == "true"
		}
	}
	for _, d := range info.Deps {
		if d.Path == "github.com/mochi-mqtt/server/v2" {
			v.Mochi = d.Version
		}
	}
	return v
}

func (p *program) printJSON(v any) error {
	enc := json.NewEncoder(p.Stdout)
	enc.SetIndent("", "  ")
	enc.SetEscapeHTML(false) // it is a terminal
	return enc.Encode(v)
}
