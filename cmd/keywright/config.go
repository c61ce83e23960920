package main

import (
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"reflect"
	"time"

	"github.com/go-viper/mapstructure/v2"
	"github.com/knadh/koanf/parsers/yaml"
	"github.com/knadh/koanf/providers/file"
	"github.com/knadh/koanf/v2"

	"github.com/keywright/keywright/hsm/uri"
)

// config is everything that `keywright serve` can be told; the flags of the command override the file. The zero value of
// every field is usable. Fields that are not named here are refused.
type config struct {
	// Data is the folder for what has no path of its own. Required.
	Data string `koanf:"data"`
	// Listen is HOST:PORT of the API. Default 127.0.0.1:8200. Plain HTTP is refused on anything but loopback.
	Listen string `koanf:"listen"`
	// MetricsListen is HOST:PORT of /metrics. Default: the port after Listen's on loopback. "off": none.
	MetricsListen string `koanf:"metrics_listen"`
	// Store is where everything is kept; a text alone is its URL.
	Store storeConfig `koanf:"store"`
	// OwnerKeyFile is where the first start writes the owner's API key. Default DATA/owner.key.
	OwnerKeyFile string          `koanf:"owner_key_file"`
	TLS          tlsConfig       `koanf:"tls"`
	Root         rootConfig      `koanf:"root"`
	Backends     []backendConfig `koanf:"backends"`
	Log          logConfig       `koanf:"log"`
	Cache        cacheConfig     `koanf:"cache"`
	Limits       limitsConfig    `koanf:"limits"`
	// TrustedProxies are addresses or ranges of proxies whose X-Forwarded-For is believed. Default: none.
	TrustedProxies []string `koanf:"trusted_proxies"`

	proxies []netip.Prefix // of TrustedProxies
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

// tlsConfig names a PEM certificate chain and its key. Both or neither.
type tlsConfig struct {
	CertFile string `koanf:"cert_file"`
	KeyFile  string `koanf:"key_file"`
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

// limitsConfig bounds the server.
type limitsConfig struct {
	Connections int `koanf:"connections"` // open at once; beyond it the longest idle is closed. Default 4096.
}

// loadConfig reads a YAML file.
func loadConfig(path string) (config, error) {
	var c config
	k := koanf.New(".")
	if err := k.Load(file.Provider(path), yaml.Parser()); err != nil {
		return c, fmt.Errorf("reading configuration: %w", err)
	}
	err := k.UnmarshalWithConf("", &c, koanf.UnmarshalConf{DecoderConfig: &mapstructure.DecoderConfig{
		Result: &c, TagName: "koanf", ErrorUnused: true, WeaklyTypedInput: false,
		DecodeHook: mapstructure.ComposeDecodeHookFunc(mapstructure.StringToTimeDurationHookFunc(), storeByURL),
	}})
	if err != nil {
		return c, fmt.Errorf("configuration %s: %w", path, err)
	}
	c.Root.origin = uri.FromFile
	if own := (&backendConfig{URI: c.Root.Device}); own.hasPIN() {
		if err := ownerOnly(path); err != nil {
			return c, fmt.Errorf("the configuration holds the PIN of the root's device: %w", err)
		}
	}
	for i := range c.Backends {
		b := &c.Backends[i]
		b.origin = uri.FromFile
		if b.hasPIN() {
			if err := ownerOnly(path); err != nil {
				return c, fmt.Errorf("the configuration holds the PIN of backend %s: %w", b.Name, err)
			}
		}
	}
	return c, nil
}

// storeByURL takes a text for a store's URL.
func storeByURL(_, to reflect.Type, data any) (any, error) {
	if text, ok := data.(string); ok && to == reflect.TypeFor[storeConfig]() {
		return storeConfig{URL: text}, nil
	}
	return data, nil
}

// complete fills in the defaults and refuses what cannot be right.
func (c *config) complete(dev bool) error {
	if c.Data == "" {
		return errors.New("no data folder: give --data DIR, or data: in the configuration")
	}
	if c.Listen == "" {
		c.Listen = "127.0.0.1:8200"
	}
	if err := c.Store.complete(c.Data); err != nil {
		return err
	}
	if c.OwnerKeyFile == "" {
		c.OwnerKeyFile = filepath.Join(c.Data, "owner.key")
	}
	if err := c.completeBackends(); err != nil {
		return err
	}
	if (c.TLS.CertFile == "") != (c.TLS.KeyFile == "") {
		return errors.New("tls needs both cert_file and key_file")
	}
	if err := c.completeRoot(); err != nil {
		return err
	}
	for _, text := range c.TrustedProxies {
		p, err := netip.ParsePrefix(text)
		if err != nil {
			a, failed := netip.ParseAddr(text)
			if failed != nil {
				return errors.New("trusted_proxies must hold addresses or ranges of them")
			}
			p = netip.PrefixFrom(a, a.BitLen())
		}
		c.proxies = append(c.proxies, p.Masked())
	}
	if !dev && c.TLS.CertFile == "" {
		if err := loopback(c.Listen); err != nil {
			return err
		}
	}
	return nil
}

// loopback refuses an address that others can reach.
func loopback(address string) error {
	host, _, err := net.SplitHostPort(address)
	if err != nil {
		return fmt.Errorf("listen address: %w", err)
	}
	if ip := net.ParseIP(host); host == "localhost" || (ip != nil && ip.IsLoopback()) {
		return nil
	}
	return fmt.Errorf("refusing plain HTTP on %s: it is not loopback; configure tls.cert_file and tls.key_file", host)
}

// ownerOnly refuses a file of secrets that others can read.
func ownerOnly(path string) error {
	st, err := os.Stat(path)
	if err != nil {
		return err
	}
	if st.Mode().Perm()&0o077 != 0 {
		return fmt.Errorf("%s can be read by others (mode %04o): chmod 600 it", path, st.Mode().Perm())
	}
	return nil
}
