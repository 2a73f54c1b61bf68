package config

import (
	"fmt"
	"net"
	"strconv"
	"strings"

	"go.yaml.in/yaml/v3"
)

func (s *sections) serve(n *yaml.Node) {
	var sample *yaml.Node
	steward := func(name string, to *Schedule) key {
		return key{name, func(n *yaml.Node) {
			if s.schedule(name, to)(n); s.keyless && !to.IsZero() {
				s.fail(n, name+": a machine that has no datasets is no steward, and only the steward may", "remove it here, and write it on the steward")
			}
		}, ""}
	}
	s.mapping(n, "serve",
		key{"listen", s.text("listen", s.listen), ""},
		key{"replicate", s.schedule("replicate", &s.Serve.Replicate), ""},
		key{"verify", s.schedule("verify", &s.Serve.Verify), ""},
		key{"verify_level", s.text("verify_level", func(n *yaml.Node, text string) {
			if text == "decrypt" {
				s.fail(n, "verify_level cannot be decrypt: that needs a reader's key, which no daemon holds", "write "+among(VerifyLevels)+", and run embassy verify --level decrypt by hand")
				return
			}
			s.enum("verify_level", VerifyLevels, &s.Serve.VerifyLevel)(n)
		}), ""},
		key{"sample", s.text("sample", func(n *yaml.Node, text string) {
			sample = n
			share, err := ParseShare(text)
			if err != nil {
				s.fail(n, "sample: "+err.Error(), "write the share of the objects that is read each time, such as 5%")
				return
			}
			s.Serve.Sample = share
		}), ""},
		key{"repair", s.boolean("repair", &s.Serve.Repair), ""},
		key{"locks", s.schedule("locks", &s.Serve.Locks), ""},
		key{"check", s.schedule("check", &s.Serve.Check), ""},
		steward("forget", &s.Serve.Forget),
		steward("prune", &s.Serve.Prune),
	)
	if sample != nil && s.Serve.VerifyLevel != "sample" {
		s.warn(sample, "sample means nothing with verify_level "+s.Serve.VerifyLevel, `remove it, or write "verify_level: sample"`)
	}
}

func (s *sections) listen(n *yaml.Node, text string) {
	host, port, err := net.SplitHostPort(text)
	number, numberErr := strconv.ParseUint(port, 10, 16)
	if err != nil || numberErr != nil || strings.ContainsAny(host, " /") {
		s.fail(n, fmt.Sprintf("%s is no address to listen on", quote(text)), "write HOST:PORT, such as "+DefaultServe.Listen)
		return
	}
	if !loopback(text) {
		s.warn(n, fmt.Sprintf("%s is reached from other machines: metrics name targets and datasets, and nobody is asked who they are", quote(text)), "write "+net.JoinHostPort("127.0.0.1", strconv.FormatUint(number, 10))+", or let a proxy ask")
	}
	s.Serve.Listen = text
}
