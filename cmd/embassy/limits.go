package main

import (
	"strings"

	"embassy/embassy/config"
	"embassy/targets"

	"github.com/urfave/cli/v2"
)

// limits are what --limit-upload and --limit-download say. They override the
// configuration.
type limits struct{ upload, download rates }

// rates are bytes per second by name of a target; under "" is that of all
// targets together. Zero is no limit.
type rates map[string]int64

func limitFlags() []cli.Flag {
	return []cli.Flag{limitFlag("upload", "send"), limitFlag("download", "fetch")}
}

// limitFlag is the flag of one direction.
func limitFlag(way, does string) cli.Flag {
	return &cli.StringSliceFlag{Name: "limit-" + way, Usage: does + " at most `RATE` a second (10MiB, 500kB, none), all targets together, or with TARGET=RATE one of them; may be repeated, overrides the configuration"}
}

func decodeLimits(c *cli.Context) (l limits, err error) {
	if l.upload, err = parseRates("limit-upload", c.StringSlice("limit-upload")); err != nil {
		return limits{}, err
	}
	l.download, err = parseRates("limit-download", c.StringSlice("limit-download"))
	return l, err
}

// parseRates reads the values of a flag: RATE or TARGET=RATE, of which RATE may
// be none.
func parseRates(flag string, values []string) (rates, error) {
	r := rates{}
	for _, value := range values {
		target, text, named := strings.Cut(value, "=")
		if !named {
			target, text = "", value
		} else if target == "" {
			return nil, usage("--%s %s names no target: write TARGET=RATE, or RATE for all together", flag, value)
		}
		if _, twice := r[target]; twice {
			return nil, usage("--%s limits %s twice: keep one of them", flag, limited(target))
		}
		r[target] = 0
		if text == "none" {
			continue
		}
		rate, err := config.ParseRate(text)
		if err != nil {
			return nil, usage("--%s: %s; write bytes per second with a unit, such as 10MiB or 500kB, or none", flag, err)
		}
		r[target] = rate
	}
	return r, nil
}

// limited names what a rate is for.
func limited(target string) string {
	if target == "" {
		return "all targets together"
	}
	return "target " + target
}

// check refuses names of targets that the configuration does not have.
func (l limits) check(cfg *config.Config) error {
	for _, r := range []rates{l.upload, l.download} {
		for target := range r {
			if target == "" {
				continue
			}
			if err := knownTargets(cfg, target); err != nil {
				return err
			}
		}
	}
	return nil
}

// knownTargets refuses names that the configuration does not have.
func knownTargets(cfg *config.Config, names ...string) error {
	var known []string
	for _, t := range cfg.Targets {
		known = append(known, t.Name)
	}
	for _, name := range names {
		if _, ok := cfg.Target(name); !ok {
			return usage("target %q is not in %s, which has %s", name, cfg.File, strings.Join(known, ", "))
		}
	}
	return nil
}

// of returns the rate of a target, or of all together, that is configured
// unless a flag says otherwise.
func (r rates) of(target string, configured int64) int64 {
	if rate, ok := r[target]; ok {
		return rate
	}
	return configured
}

// overall returns the limiters that all targets share.
func (l limits) overall(cfg *config.Config) (up, down *targets.Limiter) {
	return targets.NewLimiter(l.upload.of("", cfg.Limits.Upload)), targets.NewLimiter(l.download.of("", cfg.Limits.Download))
}

// limit returns the target under its own limits and those that all share.
func (l limits) limit(t config.Target, target targets.Target, up, down *targets.Limiter) targets.Target {
	return targets.Limit(target,
		[]*targets.Limiter{targets.NewLimiter(l.upload.of(t.Name, t.Limits.Upload)), up},
		[]*targets.Limiter{targets.NewLimiter(l.download.of(t.Name, t.Limits.Download)), down})
}
