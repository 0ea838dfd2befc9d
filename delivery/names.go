package delivery

import (
	"fmt"
	"strings"
)

// ValidAccount tells whether name can be an account: any UTF-8 of 1 to 128 bytes
// without control characters, but not "." or "..".
func ValidAccount(name string) error { return validName("account", name) }

// ValidDevice tells whether id can be a device: a level of an MQTT topic name (MQTT
// 5 §4.7.1) of 1 to 128 bytes without control characters, but not "." or "..".
func ValidDevice(id string) error {
	if err := validName("device", id); err != nil {
		return err
	}
	if strings.ContainsAny(id, "/+#") {
		return fieldErrorf("device", "must be one level of a topic, without '/', '+' and '#'", id)
	}
	return nil
}

// ValidName is ValidAccount or ValidDevice, by field: "account" or "device".
func ValidName(field, name string) error {
	if field == "account" {
		return ValidAccount(name)
	}
	return ValidDevice(name)
}

func validName(field, name string) error {
	if name == "" {
		return fieldErrorf(field, "must not be empty", nil)
	}
	if len(name) > MaxName {
		return fieldErrorf(field, fmt.Sprintf("at most %d bytes", MaxName), len(name))
	}
	// Most clients resolve these in a path: DELETE of such a device would erase its account.
	if name == "." || name == ".." {
		return fieldErrorf(field, `must not be "." or ".."`, nil)
	}
	for _, r := range name {
		if r < 0x20 || r >= 0x7f && r < 0xa0 || r == 0xfffd {
			return fieldErrorf(field, "must be UTF-8 without control characters", name)
		}
	}
	return nil
}
