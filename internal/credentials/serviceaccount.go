package credentials

import (
	"crypto/rsa"
	"encoding/json"
	"errors"
	"fmt"
	"net/url"

	"github.com/golang-jwt/jwt/v5"
)

// ServiceAccount is a Google service account: the credentials of one Firebase project.
type ServiceAccount struct {
	Project  string          // project_id
	Email    string          // client_email
	KeyID    string          // private_key_id
	Key      *rsa.PrivateKey // private_key
	TokenURI string          // token_uri
}

// ParseServiceAccount reads the JSON file that the Firebase console makes (Project settings,
// Service accounts, Generate new private key). The errors name the usual mix-ups and
// repeat no secret.
func ParseServiceAccount(file []byte) (*ServiceAccount, error) {
	var text struct {
		Type      string          `json:"type"`
		Project   string          `json:"project_id"`
		KeyID     string          `json:"private_key_id"`
		Key       string          `json:"private_key"`
		Email     string          `json:"client_email"`
		TokenURI  string          `json:"token_uri"`
		Info      json.RawMessage `json:"project_info"`
		Installed json.RawMessage `json:"installed"`
		Web       json.RawMessage `json:"web"`
	}
	const wanted = "make one in the Firebase console: Project settings, Service accounts, Generate new private key"
	if err := json.Unmarshal(file, &text); err != nil {
		return nil, errors.New("is not JSON; it must hold a service account: " + wanted)
	}
	switch {
	case text.Info != nil:
		return nil, errors.New("is google-services.json, which is for the app; the server needs a service account: " + wanted)
	case text.Installed != nil || text.Web != nil:
		return nil, errors.New("is an OAuth client; the server needs a service account: " + wanted)
	case text.Type != "service_account":
		return nil, fmt.Errorf("has type %.40q; must be service_account: %s", text.Type, wanted)
	}
	var errs []error
	a := &ServiceAccount{Project: text.Project, Email: text.Email, KeyID: text.KeyID, TokenURI: text.TokenURI}
	if !ValidProject(text.Project) {
		errs = append(errs, errors.New("project_id: must be 1 to 64 of a-z, 0-9, '-', '.' and ':'"))
	}
	if text.Email == "" {
		errs = append(errs, errors.New("client_email: must be given"))
	}
	if u, err := url.Parse(text.TokenURI); err != nil || u.Scheme != "https" || u.Host == "" {
		errs = append(errs, errors.New("token_uri: must be an https URL"))
	}
	var err error
	if a.Key, err = jwt.ParseRSAPrivateKeyFromPEM([]byte(text.Key)); err != nil {
		errs = append(errs, errors.New("private_key: must be an RSA key in PEM"))
	}
	if err := errors.Join(errs...); err != nil {
		return nil, err
	}
	return a, nil
}

// ValidProject reports whether id has the form of a Google Cloud project ID.
func ValidProject(id string) bool {
	for _, r := range id {
		switch {
		case r >= 'a' && r <= 'z', r >= '0' && r <= '9', r == '-', r == '.', r == ':':
		default:
			return false
		}
	}
	return id != "" && len(id) <= 64
}
