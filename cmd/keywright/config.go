package main

import (
	"errors"
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"reflect"
	"slices"
	"time"

	"github.com/go-viper/mapstructure/v2"
	"github.com/knadh/koanf/parsers/yaml"
	"github.com/knadh/koanf/providers/file"
	"github.com/knadh/koanf/v2"

	"github.com/keywright/keywright/hsm/uri"
	"github.com/keywright/keywright/ratelimit"
	"github.com/keywright/keywright/secret"
)

// config is everything that `keywright serve` can be told; the flags of the command override the file. The zero value of
// every field is usable. Fields that are not named here are refused.
type config struct {
	// Data is the folder for what has no path of its own. Required.
	Data string `koanf:"data"`
	// Listen is where the API is: one address or a list. Default 127.0.0.1:8200. Plain HTTP is refused on anything but loopback.
	Listen []listenConfig `koanf:"listen"`
	// MetricsListen is HOST:PORT of /metrics. Default: the port after Listen's on loopback. "off": none.
	MetricsListen string `koanf:"metrics_listen"`
	// Store is where everything is kept; a text alone is its URL.
	Store storeConfig `koanf:"store"`
	// OwnerKeyFile is where the first start writes the owner's API key. Default DATA/owner.key.
	OwnerKeyFile string `koanf:"owner_key_file"`
	// Node is what this node is called among those on one store.
	Node     nodeConfig      `koanf:"node"`
	TLS      tlsConfig       `koanf:"tls"`
	CORS     corsConfig      `koanf:"cors"`
	Root     rootConfig      `koanf:"root"`
	Backends []backendConfig `koanf:"backends"`
	Log      logConfig       `koanf:"log"`
	Cache    cacheConfig     `koanf:"cache"`
	Limits   limitsConfig    `koanf:"limits"`
	Reseal   resealConfig    `koanf:"reseal"`
	Events   eventsConfig    `koanf:"events"`
	Webhooks webhooksConfig  `koanf:"webhooks"`
	Audit    auditConfig     `koanf:"audit"`
	// Credentials say who may call without an API key.
	Credentials credentialsConfig `koanf:"credentials"`
	Sessions    sessionsConfig    `koanf:"sessions"`
	// Plans are what the requests of tenants are held to. Default: nothing.
	Plans []planConfig `koanf:"plans"`
	// TrustedProxies are addresses or ranges of proxies whose X-Forwarded-For is believed. Default: none.
	TrustedProxies []string `koanf:"trusted_proxies"`

	proxies []netip.Prefix // of TrustedProxies
	plans   ratelimit.Plans
}

// storeConfig is the store: one SQLite file, which belongs to this process, or a schema of a PostgreSQL database. All but URL is for
// PostgreSQL alone.
type storeConfig struct {
	// URL is sqlite:/PATH or postgres://ROLE@HOST:PORT/DATABASE?PARAMETERS, without a password. Default sqlite:DATA/keywright.db.
	URL string `koanf:"url"`
	// PasswordFile holds the role's password in its first line, readable by its owner alone. Read for each new connection.
	PasswordFile     string        `koanf:"password_file"`
	Schema           string        `koanf:"schema"`            // Default public.
	Connections      int           `koanf:"connections"`       // open at once, at least 2. Default 8.
	StatementTimeout time.Duration `koanf:"statement_timeout"` // for each statement, in the server. Default 15s.
}

// rootConfig says what opens the root at start, one of the three. Slots on devices are tried in any case; where nothing opens the service starts
// locked, and `keywright unlock` opens it. At the very first start what stands here makes the first slot.
type rootConfig struct {
	KeyFile        string `koanf:"key_file"`        // made by `keywright root new-key-file`; readable by its owner alone
	PassphraseFile string `koanf:"passphrase_file"` // its first line; readable by its owner alone (a systemd credential is)
	// Device is the name of a configured backend that is a device, or the URI of a token or TPM that is opened for the root alone, under the name "root".
	Device string `koanf:"device"`
	// TPM is for a TPM that is opened for the root alone.
	TPM tpmConfig `koanf:"tpm"`

	origin uri.Origin     // of Device
	own    *backendConfig // the device that is opened for the root alone; nil: none
}

// backendConfig is a backend by name and URI: "software:", a PKCS#11 URI (RFC 7512), or a TPM's as in "tpm:/dev/tpmrm0". The first one is the default for new keys. A software
// backend is added behind the others when none is named, as the root that it stands for is there in any case.
type backendConfig struct {
	Name   string       `koanf:"name"`
	URI    string       `koanf:"uri"`
	PKCS11 pkcs11Config `koanf:"pkcs11"` // for a PKCS#11 URI
	TPM    tpmConfig    `koanf:"tpm"`    // for a TPM's

	origin uri.Origin // a PIN in a URI is taken from the file alone
}

// logConfig: Level is debug, info (default), warn or error; Format is text (default) or json.
type logConfig struct {
	Level  string `koanf:"level"`
	Format string `koanf:"format"`
}

// cacheConfig bounds what stays in memory.
type cacheConfig struct {
	Records     int           `koanf:"records"`      // key records. Default 16384.
	Material    int           `koanf:"material"`     // opened keys of one backend. Default 4096; -1: none.
	MaterialMiB int           `koanf:"material_mib"` // what they may take in memory, in MiB. Default 96; -1: no limit but their number.
	MaterialTTL time.Duration `koanf:"material_ttl"` // how long an opened key may stay. Default 5m.
}

// materialBytes is MaterialMiB in bytes.
func (c *cacheConfig) materialBytes() int64 { return int64(c.MaterialMiB) << 20 }

// errUnreadable is of a file that is not there, or no YAML.
var errUnreadable = errors.New("reading configuration")

// loadConfig reads a YAML file.
func loadConfig(path string) (config, error) {
	var c config
	k := koanf.New(".")
	if err := k.Load(file.Provider(path), yaml.Parser()); err != nil {
		return c, fmt.Errorf("%w: %w", errUnreadable, err)
	}
	var seen mapstructure.Metadata
	err := k.UnmarshalWithConf("", &c, koanf.UnmarshalConf{DecoderConfig: &mapstructure.DecoderConfig{
		Result: &c, TagName: "koanf", Metadata: &seen, WeaklyTypedInput: false,
		DecodeHook: mapstructure.ComposeDecodeHookFunc(mapstructure.StringToTimeDurationHookFunc(), storeByURL, listenByAddress),
	}})
	if err = errors.Join(misread(err), unknown(seen.Unused)); err != nil {
		return c, fmt.Errorf("configuration %s: %w", path, err)
	}
	c.Root.origin = uri.FromFile
	if own := (&backendConfig{URI: c.Root.Device}); own.hasPIN() {
		if err := ownerOnly(path); err != nil {
			return c, at("root.device", fmt.Errorf("the configuration holds the PIN of the root's device: %w", err))
		}
	}
	for i := range c.Backends {
		b := &c.Backends[i]
		b.origin = uri.FromFile
		if b.hasPIN() {
			if err := ownerOnly(path); err != nil {
				return c, at(fmt.Sprintf("backends[%d].uri", i), fmt.Errorf("the configuration holds the PIN of backend %s: %w", b.Name, err))
			}
		}
	}
	return c, nil
}

// misread names the settings that are not of their type, without what stands there.
func misread(err error) error {
	var inside *mapstructure.DecodeError
	if !errors.As(err, &inside) {
		return err
	}
	switch e := err.(type) { //nolint:errorlint // the tree is walked from its top
	case interface{ Unwrap() []error }:
		var out error
		for _, one := range e.Unwrap() {
			out = errors.Join(out, misread(one))
		}
		return out
	case *mapstructure.DecodeError:
		if !errors.As(e.Unwrap(), &inside) {
			var other *mapstructure.UnconvertibleTypeError
			if errors.As(e, &other) && other.Expected.IsValid() {
				return at(e.Name(), fmt.Errorf("something of type %s is expected here (a text may need quotes)", other.Expected.Kind()))
			}
			return at(e.Name(), errors.New("what stands here is not of the form that this setting takes"))
		}
		return misread(e.Unwrap())
	case interface{ Unwrap() error }:
		return misread(e.Unwrap())
	}
	return err
}

// unknown refuses settings that there are not.
func unknown(paths []string) error {
	slices.Sort(paths)
	errs := make([]error, 0, len(paths))
	for _, p := range paths {
		errs = append(errs, at(p, errors.New("there is no such setting")))
	}
	return errors.Join(errs...)
}

// storeByURL takes a text for a store's URL.
func storeByURL(_, to reflect.Type, data any) (any, error) {
	if text, ok := data.(string); ok && to == reflect.TypeFor[storeConfig]() {
		return storeConfig{URL: text}, nil
	}
	return data, nil
}

// complete fills in the defaults and refuses what cannot be right. Each part says its own errors, with the path of the setting: all that a
// start can know without opening anything. `keywright config check` runs it too, and then looks further: see inspect.
func (c *config) complete(dev bool) error {
	if c.Data == "" {
		return at("data", errors.New("no data folder: give --data DIR, or data: in the configuration"))
	}
	if c.OwnerKeyFile == "" {
		c.OwnerKeyFile = filepath.Join(c.Data, "owner.key")
	}
	if err := c.credentials(); err != nil {
		return err // what follows looks at the files
	}
	return errors.Join(
		c.completeTransport(dev),
		at("store", c.Store.complete(c.Data)),
		at("backends", c.completeBackends()),
		at("node", c.Node.complete()),
		c.Audit.completeSinks(),
		c.Audit.completeWitnesses(),
		c.Audit.completeRetention(),
		at("root", c.completeRoot()),
		at("reseal", c.Reseal.complete()),
		at("trusted_proxies", c.completeProxies()),
		c.completePlans(),
		c.completeCredentials(),
		c.Sessions.complete(),
	)
}

// ownerOnly refuses a file of secrets that others can read (secret.Private).
func ownerOnly(path string) error {
	st, err := os.Stat(path)
	if err != nil {
		return err
	}
	if !secret.Private(st) {
		return fmt.Errorf("%s can be read by others (mode %04o): chmod 600 it", path, st.Mode().Perm())
	}
	return nil
}

// completeProxies reads the addresses of trusted proxies.
func (c *config) completeProxies() error {
	for _, text := range c.TrustedProxies {
		p, err := netip.ParsePrefix(text)
		if err != nil {
			a, failed := netip.ParseAddr(text)
			if failed != nil {
				return errors.New("trusted_proxies holds addresses or ranges of them")
			}
			p = netip.PrefixFrom(a, a.BitLen())
		}
		c.proxies = append(c.proxies, p.Masked())
	}
	return nil
}
