package main

import (
	"cmp"
	"context"
	"fmt"
	"io"
	"time"

	"embassy/crypto"
	"embassy/embassy"
	"embassy/embassy/format"

	"github.com/urfave/cli/v2"
)

func charterShowCommand(con *console) *cli.Command {
	return &cli.Command{
		Name:  "show",
		Usage: "what the newest charter says; names as far as this machine's agent can open them",
		Action: action(con, func(c *cli.Context) (struct{}, error) {
			return struct{}{}, noArguments(c)
		}, func(ctx context.Context, _ struct{}, con *console) error { return con.showing(ctx, printCharter) }),
	}
}

func agentListCommand(con *console) *cli.Command {
	return &cli.Command{
		Name:  "list",
		Usage: "the agents of the newest charter; names as far as this machine's agent can open them",
		Action: action(con, func(c *cli.Context) (struct{}, error) {
			return struct{}{}, noArguments(c)
		}, func(ctx context.Context, _ struct{}, con *console) error {
			return con.showing(ctx, func(con *console, v charterView) error {
				if con.json {
					return printJSON(con.stdout, struct {
						schema
						Agents []agentView `json:"agents"`
					}{schemaV1, v.Agents})
				}
				return printAgents(con.stdout, v.Agents)
			})
		}),
	}
}

// charterView is a charter in JSON.
type charterView struct {
	schema
	Seq            uint64            `json:"charter"`
	Hash           string            `json:"hash"`
	Time           time.Time         `json:"time"`
	Nation         string            `json:"nation"`
	NationKey      string            `json:"nation_key"`
	Root           string            `json:"root_fingerprint"`
	Rotations      int               `json:"root_rotations"`
	SignedBy       string            `json:"signed_by"`
	RestsOn        uint64            `json:"rests_on_charter"`
	Compartments   []compartmentView `json:"compartments"`
	Destroyed      []tombstoneView   `json:"destroyed_compartments"`
	Agents         []agentView       `json:"agents"`
	Administrators []string          `json:"administrator_fingerprints"`
	Quorum         uint32            `json:"quorum"`
}

type compartmentView struct {
	ID         string          `json:"id"`
	Name       string          `json:"name,omitempty"`
	Epoch      uint32          `json:"writer_epoch"`
	Recipients []recipientView `json:"recipients"`
	Steward    string          `json:"steward,omitempty"`
	StewardID  string          `json:"steward_id,omitempty"`
	Shared     bool            `json:"shared"`
	Datasets   []string        `json:"datasets"`
	words      []string
	steward    string
}

type tombstoneView struct {
	ID   string    `json:"id"`
	Name string    `json:"name,omitempty"`
	Time time.Time `json:"time"`
}

type recipientView struct {
	Epoch       uint32 `json:"reader_epoch"` // 0: a partner
	Fingerprint string `json:"fingerprint"`
	Partner     string `json:"partner,omitempty"`
	Since       uint32 `json:"since_writer_epoch,omitempty"`
}

type agentView struct {
	ID           string   `json:"id"`
	Name         string   `json:"name,omitempty"`
	Fingerprint  string   `json:"fingerprint"`
	Status       string   `json:"status"`
	Compartments []string `json:"compartments"`
	Quota        uint64   `json:"quota"` // bytes; 0: none
	After        []string `json:"after,omitempty"`
	This         bool     `json:"this_machine"`
}

func (con *console) showing(ctx context.Context, print func(*console, charterView) error) error {
	return con.serving(func(s *site, service *embassy.Service) error {
		me, err := s.identity()
		if err != nil {
			return err
		}
		ch, object, keys, err := service.CharterOf(ctx)
		if err != nil {
			return s.brief(err)
		}
		s.screen.close()
		v, err := viewCharter(ch, object, keys, me)
		if err != nil {
			return err
		}
		return print(con, v)
	})
}

func viewCharter(ch *format.Charter, object []byte, keys *embassy.Keys, me identity) (charterView, error) {
	names := keys.Names()
	signer, err := crypto.ParseVerifier(ch.RootSigner)
	if err != nil {
		return charterView{}, fmt.Errorf("charter %d: %w", ch.Seq, err)
	}
	v := charterView{
		schema: schemaV1, Seq: ch.Seq, Hash: format.HashOf(object).String(), Time: ch.When(), Nation: ch.Nation.String(),
		NationKey: format.NationKey{Nation: ch.Nation, Signer: signer}.String(), Root: crypto.Fingerprint(ch.RootSigner),
		Rotations: len(ch.Succession), SignedBy: signedBy(ch), RestsOn: ch.Rooted().Seq, Quorum: ch.Quorum,
		Compartments: []compartmentView{}, Destroyed: []tombstoneView{}, Agents: []agentView{}, Administrators: []string{},
	}
	for _, k := range ch.Compartments {
		c := compartmentView{ID: k.ID.String(), Name: names[k.ID], Epoch: k.Epoch, Shared: k.Shared, Datasets: []string{}}
		if id := k.Steward(); id != (format.ID{}) {
			c.Steward, c.StewardID, c.steward = cmp.Or(names[id], id.String()), id.String(), names.Of(id)
			if me.state != nil && me.state.Agent() == id {
				c.steward += ", this machine"
			}
		}
		for _, r := range k.Recipients {
			c.Recipients = append(c.Recipients, recipientView{r.Epoch, crypto.Fingerprint(r.Key), r.Partner, r.Since})
			c.words = append(c.words, embassy.RecipientWords(r))
		}
		if keys != nil && c.Name != "" {
			part, err := keys.Named(c.Name)
			if err != nil {
				return v, err
			}
			for _, d := range part.Part.Datasets {
				c.Datasets = append(c.Datasets, d.Name)
			}
		}
		v.Compartments = append(v.Compartments, c)
	}
	for _, t := range ch.Destroyed {
		v.Destroyed = append(v.Destroyed, tombstoneView{t.ID.String(), names[t.ID], t.When()})
	}
	for _, g := range ch.Agents {
		a := agentView{
			ID: g.ID.String(), Name: names[g.ID], Fingerprint: crypto.AgentFingerprint(g.Signer, g.Recipient),
			Status: embassy.StatusWord(g.Status), Compartments: []string{}, Quota: g.Quota,
			This: me.state != nil && me.state.Agent() == g.ID,
		}
		for _, k := range g.Compartments {
			a.Compartments = append(a.Compartments, names.Of(k))
		}
		for _, h := range g.After {
			a.After = append(a.After, h.Hash.String())
		}
		v.Agents = append(v.Agents, a)
	}
	for _, key := range ch.Administrators {
		v.Administrators = append(v.Administrators, crypto.Fingerprint(key))
	}
	return v, nil
}

func signedBy(ch *format.Charter) string {
	if len(ch.Base) > 0 {
		return fmt.Sprintf("%d administrators", ch.Quorum)
	}
	return "the root"
}

func printCharter(con *console, v charterView) error {
	if con.json {
		return printJSON(con.stdout, v)
	}
	w := table(con.stdout)
	fmt.Fprintf(w, "charter\t%d of %s UTC\n", v.Seq, moment(v.Time))
	fmt.Fprintf(w, "hash\t%s\n", v.Hash)
	fmt.Fprintf(w, "signed by\t%s\n", v.SignedBy)
	if v.RestsOn != v.Seq {
		fmt.Fprintf(w, "rests on\tcharter %d, which the root signed\n", v.RestsOn)
	}
	fmt.Fprintf(w, "nation\t%s\n", v.Nation)
	fmt.Fprintf(w, "nation key\t%s\n", v.NationKey)
	fmt.Fprintf(w, "root fingerprint\t%s\n", v.Root)
	if v.Rotations > 0 {
		fmt.Fprintf(w, "root rotations\t%d\n", v.Rotations)
	}
	for _, f := range v.Administrators {
		fmt.Fprintf(w, "administrator\t%s\n", f)
	}
	if v.Quorum > 0 {
		fmt.Fprintf(w, "quorum\t%d of %d administrators enrol, suspend and revoke agents\n", v.Quorum, len(v.Administrators))
	}
	for _, c := range v.Compartments {
		fmt.Fprintf(w, "\t\ncompartment %s\t%s, writer epoch %d\n", dash(printable(c.Name)), c.ID, c.Epoch)
		for _, words := range c.words {
			fmt.Fprintf(w, "  \t%s\n", words)
		}
		if c.steward != "" {
			fmt.Fprintf(w, "  steward\t%s\n", printable(c.steward))
		}
		for _, d := range c.Datasets {
			fmt.Fprintf(w, "  dataset\t%s\n", printable(d))
		}
	}
	for _, t := range v.Destroyed {
		fmt.Fprintf(w, "\t\ncompartment %s\t%s, destroyed on %s UTC\n", dash(printable(t.Name)), t.ID, moment(t.Time))
	}
	fmt.Fprintln(w)
	if err := w.Flush(); err != nil {
		return err
	}
	return printAgents(con.stdout, v.Agents)
}

func printAgents(out io.Writer, agents []agentView) error {
	w := table(out)
	fmt.Fprintln(w, "AGENT\tNAME\tSTATUS\tQUOTA\tCOMPARTMENTS\tFINGERPRINT")
	for _, a := range agents {
		quota, status := "-", a.Status
		if a.Quota > 0 {
			quota = size(a.Quota)
		}
		if a.This {
			status += ", this machine"
		}
		in := ""
		for i, c := range a.Compartments {
			if i > 0 {
				in += ","
			}
			in += printable(c)
		}
		fmt.Fprintf(w, "%s\t%s\t%s\t%s\t%s\t%s\n", a.ID, dash(printable(a.Name)), status, quota, dash(in), a.Fingerprint)
	}
	return w.Flush()
}
