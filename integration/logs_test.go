package integration

import (
	"go/ast"
	"go/parser"
	"go/token"
	"os"
	"regexp"
	"strconv"
	"strings"
	"testing"
)

// TestLogPage: docs/logs.md has every record at the levels warn and error of the
// program, with its level, and no other.
func TestLogPage(t *testing.T) {
	page, err := os.ReadFile("../docs/logs.md")
	if err != nil {
		t.Fatal(err)
	}
	told := map[string]string{} // level by message
	for _, row := range regexp.MustCompile("(?m)^\\| (warn|error) \\| `([^`]+)` \\| .+ \\| .+ \\|$").FindAllStringSubmatch(string(page), -1) {
		told[row[2]] = row[1]
	}
	if len(told) < 50 {
		t.Fatalf("only %d rows", len(told))
	}
	logged := map[string]bool{}
	program := regexp.MustCompile(`^(\.\./)?(auth|broker|cluster|cmd|config|delivery|fallback|hooks|internal|receipts|store|xmpp)/`)
	simulated := regexp.MustCompile(`sim/|test/|kit/|testtool/`)
	sources(t, func(path, text string) {
		if !program.MatchString(path) || simulated.MatchString(path) || strings.HasSuffix(path, "_test.go") {
			return
		}
		file, err := parser.ParseFile(token.NewFileSet(), path, text, 0)
		if err != nil {
			t.Fatal(err)
		}
		ast.Inspect(file, func(n ast.Node) bool {
			level, message := record(n)
			if message == "" {
				return true
			}
			logged[message] = true
			if told[message] != level {
				t.Errorf("%s logs %q at the level %s: docs/logs.md says %q", path, message, level, told[message])
			}
			return true
		})
	})
	for message := range told {
		if !logged[message] {
			t.Errorf("docs/logs.md has %q, which nothing logs", message)
		}
	}
}

// record returns the level and the message of a call that logs at warn or error.
func record(n ast.Node) (level, message string) {
	call, ok := n.(*ast.CallExpr)
	if !ok || len(call.Args) == 0 {
		return "", ""
	}
	method, ok := call.Fun.(*ast.SelectorExpr)
	if !ok || method.Sel.Name != "Warn" && method.Sel.Name != "Error" {
		return "", ""
	}
	first := call.Args[0]
	if _, ok := first.(*ast.SelectorExpr); ok && len(call.Args) > 1 { // of seldom.Log, the logger
		first = call.Args[1]
	}
	if sum, ok := first.(*ast.BinaryExpr); ok {
		for ; ok; sum, ok = first.(*ast.BinaryExpr) {
			first = sum.X
		}
	}
	text, ok := first.(*ast.BasicLit)
	if !ok || text.Kind != token.STRING {
		return "", ""
	}
	message, err := strconv.Unquote(text.Value)
	if err != nil {
		return "", ""
	}
	return strings.ToLower(method.Sel.Name), strings.TrimSpace(message)
}
