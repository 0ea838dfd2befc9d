package broker

import (
	"runtime/debug"
	"testing"
)

func TestVersion(t *testing.T) {
	main := func(v string) *debug.BuildInfo {
		return &debug.BuildInfo{Main: debug.Module{Path: modulePath, Version: v}}
	}
	for _, tt := range []struct {
		name string
		info *debug.BuildInfo
		want string
	}{
		{"without modules", nil, version},
		{"go build without a repository", main("(devel)"), version},
		{"a commit without a tag before it", main("v0.0.0-20261126014500-a99ef0f1c2d3"), version},
		{"a commit after a tag", main("v0.1.1-0.20261126014500-a99ef0f1c2d3+dirty"), version},
		{"a tag", main("v0.1.0"), "0.1.0"},
		{"a tag of a candidate", main("v0.2.0-rc.1"), "0.2.0-rc.1"},
		{"a tag with changes", main("v0.1.0+dirty"), "0.1.0+dirty"},
		{"a plugin", &debug.BuildInfo{
			Main: debug.Module{Path: "example.com/broker", Version: "v3.0.0"},
			Deps: []*debug.Module{{Path: "github.com/spf13/cobra", Version: "v1.10.2"}, {Path: modulePath, Version: "v0.1.0"}},
		}, "0.1.0"},
	} {
		if got := versionFrom(tt.info); got != tt.want {
			t.Errorf("%s: %q, want %q", tt.name, got, tt.want)
		}
	}
}
