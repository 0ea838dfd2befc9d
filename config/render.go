package config

import (
	"fmt"
	"reflect"
	"strconv"
	"time"

	"go.yaml.in/yaml/v3"
)

// scalar writes a value as YAML does.
func scalar(v reflect.Value) string {
	switch x := v.Interface().(type) {
	case time.Duration:
		return formatDuration(x)
	case ByteSize:
		return x.String()
	}
	switch v.Kind() {
	case reflect.Bool:
		return strconv.FormatBool(v.Bool())
	case reflect.Int:
		return strconv.FormatInt(v.Int(), 10)
	case reflect.Slice:
		return "[]"
	case reflect.String:
		n := yaml.Node{Kind: yaml.ScalarNode, Tag: "!!str", Value: v.String()}
		_ = n
		return fmt.Sprintf("%q", v.String())
	}
	panic("config: no way to write " + v.Type().String())
}
