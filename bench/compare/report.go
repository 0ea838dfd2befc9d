package main

import (
	"bytes"
	"fmt"
	"os"
	"runtime"
	"strings"
	"syscall"
	"time"
	"unicode/utf8"
)

// report is where the tables go: to the terminal, and between the markers of a page.
type report struct {
	page    string // "" is none
	machine string
	p       *program
}

func newReport(page string, p *program) (*report, error) {
	r := &report{page: page, machine: machine(), p: p}
	if page != "" {
		if _, err := os.Stat(page); err != nil {
			return nil, fmt.Errorf("-write: %w", err)
		}
	}
	fmt.Fprintln(os.Stdout, r.machine)
	return r, nil
}

func (r *report) progress(format string, args ...any) {
	fmt.Fprintln(os.Stdout, strings.TrimRight(fmt.Sprintf(format, args...), " "))
}

type table struct {
	head []string
	rows [][]string
}

func (t *table) add(cells ...string) { t.rows = append(t.rows, cells) }

// String is Markdown that can also be read as it is.
func (t *table) String() string {
	widths := make([]int, len(t.head))
	for _, row := range append([][]string{t.head}, t.rows...) {
		for i, cell := range row {
			widths[i] = max(widths[i], utf8.RuneCountInString(cell))
		}
	}
	var b strings.Builder
	line := func(row []string, fill string) {
		for i, cell := range row {
			fmt.Fprintf(&b, "| %s%s ", cell, strings.Repeat(fill, widths[i]-utf8.RuneCountInString(cell)))
		}
		b.WriteString("|\n")
	}
	line(t.head, " ")
	line(make([]string, len(t.head)), "-")
	for _, row := range t.rows {
		line(row, " ")
	}
	return b.String()
}

// aim is a row of the table of aims.
type aim struct{ what, bar, aim, reached string }

func ms(v float64) string { return fmt.Sprintf("%.2f ms", v) }

// section prints a section and puts it into the page.
func (r *report) section(name, text string, t table, aims []aim) error {
	var b strings.Builder
	fmt.Fprintf(&b, "%s\n\n%s", text, t.String())
	if len(aims) > 0 {
		at := table{head: []string{"aim", "first bar", "aim", "reached"}}
		for _, a := range aims {
			at.add(a.what, a.bar, a.aim, a.reached)
		}
		fmt.Fprintf(&b, "\n%s", at.String())
	}
	if others := median(r.p.others); others >= 0.05 {
		fmt.Fprintf(&b, "\nOther programs kept %.1f of the %d cores busy meanwhile (median of the runs): rates and latencies suffer from it, ratios less.\n", others, runtime.NumCPU())
	}
	fmt.Fprintf(os.Stdout, "\n%s: %s\n", name, b.String())
	if r.page == "" {
		return nil
	}
	return r.write(name, fmt.Sprintf("%s\n%s\n", b.String(), r.machine))
}

// write replaces the text between a section's markers.
func (r *report) write(name, text string) error {
	page, err := os.ReadFile(r.page)
	if err != nil {
		return err
	}
	first, last := fmt.Appendf(nil, "<!-- compare:%s -->\n", name), fmt.Appendf(nil, "<!-- /compare:%s -->", name)
	i := bytes.Index(page, first)
	j := bytes.Index(page, last)
	if i < 0 || j < i {
		return fmt.Errorf("-write: %s has no %s and %s to put the table between", r.page, bytes.TrimSpace(first), last)
	}
	i += len(first)
	return os.WriteFile(r.page, bytes.Join([][]byte{page[:i], []byte(text), page[j:]}, nil), 0o644) //nolint:gosec // the page that was named on the command line
}

// machine describes the machine of the measurement.
func machine() string {
	read := func(file, key string) string {
		b, _ := os.ReadFile(file) // what is not told is left out
		for line := range strings.Lines(string(b)) {
			if name, value, ok := strings.Cut(line, ":"); ok && strings.TrimSpace(name) == key {
				return strings.TrimSpace(value)
			}
		}
		return ""
	}
	var kib int
	_, _ = fmt.Sscan(read("/proc/meminfo", "MemTotal"), &kib)
	release, _ := os.ReadFile("/proc/sys/kernel/osrelease")
	return fmt.Sprintf("Measured on %s: %d cores of %s, %.0f GiB of memory, Linux %s, %s, %s.", time.Now().Format("2006-01-02"), runtime.NumCPU(),
		read("/proc/cpuinfo", "model name"), float64(kib)/(1<<20), strings.TrimSpace(string(release)), disk(), runtime.Version())
}

// disk is the kind of what the data is on.
func disk() string {
	var fs syscall.Statfs_t
	var st syscall.Stat_t
	dir := os.TempDir()
	if syscall.Statfs(dir, &fs) != nil || syscall.Stat(dir, &st) != nil {
		return "an unknown disk"
	}
	name, ok := map[int64]string{0xef53: "ext4", 0x58465342: "xfs", 0x9123683e: "btrfs", 0x01021994: "tmpfs", 0x794c7630: "overlayfs", 0x2fc12fc1: "zfs"}[fs.Type]
	if !ok {
		name = fmt.Sprintf("file system %#x", fs.Type)
	}
	major, minor := st.Dev>>8&0xfff, st.Dev&0xff
	link, err := os.Readlink(fmt.Sprintf("/sys/dev/block/%d:%d", major, minor))
	switch {
	case err != nil:
		return name
	case strings.Contains(link, "/virtio"):
		return name + " on a virtual disk"
	case strings.Contains(link, "/nvme"):
		return name + " on NVMe"
	}
	return name + " on a disk"
}
