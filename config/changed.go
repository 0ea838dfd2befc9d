package config

import "reflect"

// Changed returns the keys whose values differ between two configurations, in the order
// of the example file.
func Changed(a, b *Config) (keys []string) {
	x, y := reflect.ValueOf(a).Elem(), reflect.ValueOf(b).Elem()
	for _, f := range fieldsOf(x.Type(), "") {
		if !reflect.DeepEqual(x.FieldByIndex(f.index).Interface(), y.FieldByIndex(f.index).Interface()) {
			keys = append(keys, f.key)
		}
	}
	return keys
}
