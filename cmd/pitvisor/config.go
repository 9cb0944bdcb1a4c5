package main

import (
	"fmt"
	"strings"

	"github.com/spf13/cobra"

	"github.com/pitvisor/pitvisor/internal/config"
)

// configCommand has the verbs that look at configurations.
func (a *app) configCommand() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "config",
		Short: "show, compare and describe configurations",
		Long: "Look at configurations without starting anything: what is in force and why, what is\n" +
			"different about two of them, and what may be written.",
		Args: takes(0, 0),
		RunE: func(cmd *cobra.Command, _ []string) error { return cmd.Help() },
	}
	cmd.AddCommand(a.configShowCommand(), a.configDiffCommand(), a.configSchemaCommand())
	return cmd
}

func (a *app) configSchemaCommand() *cobra.Command {
	return &cobra.Command{
		Use:   "schema",
		Short: "print the JSON Schema of configurations",
		Long: "Print the JSON Schema (2020-12) of a configuration, for editors: with the line\n" +
			"    #:schema /usr/share/pitvisor/pitvisor.schema.json\n" +
			"at the top of a file, those that know TOML and schemas complete and check it. What depends on\n" +
			"the machine or on several keys together is looked at only by `pitvisor check`.",
		Args: takes(0, 0),
		RunE: func(*cobra.Command, []string) error {
			data, err := config.Schema()
			if err != nil {
				return fail(exitSelf, err)
			}
			_, err = a.stdout.Write(data)
			return err
		},
	}
}

const configShowLong = `Print the configuration that is in force, as TOML: of the file, its drop-ins,
[defaults], variables and what is built in, with where each value is from. POOL
leaves it at these pools. What depends on where pitvisor runs, such as the
user and the environment, is not shown.

Without POOL the output is itself a configuration that means the same. Values
of variables are in it: it may hold secrets.`

func (a *app) configShowCommand() *cobra.Command {
	var f sourceFlags
	var asJSON bool
	cmd := &cobra.Command{
		Use:   "show [-f FILE] [POOL...]",
		Short: "print what is in force, and where each value is from",
		Long:  configShowLong,
		RunE:  func(_ *cobra.Command, pools []string) error { return a.configShow(f, pools, asJSON) },
	}
	f.add(cmd)
	cmd.Flags().BoolVar(&asJSON, "json", false, "print JSON")
	cmd.ValidArgsFunction = func(*cobra.Command, []string, string) ([]string, cobra.ShellCompDirective) {
		_, effective, err := f.source().Explain()
		if err != nil {
			return nil, cobra.ShellCompDirectiveNoFileComp // it is told when the command is given
		}
		return poolsOf(effective.Tables), cobra.ShellCompDirectiveNoFileComp
	}
	return cmd
}

func (a *app) configShow(f sourceFlags, pools []string, asJSON bool) error {
	_, effective, err := f.source().Explain()
	if err != nil {
		return badConfig(f.file, err)
	}
	tables, err := tablesOf(effective.Tables, pools)
	if err != nil {
		return fail(exitUsage, err)
	}
	if asJSON {
		return a.printJSON(shownJSON(effective.Files, tables))
	}
	_, err = fmt.Fprint(a.stdout, shownText(effective.Files, tables, painter(a.colors(a.stdout))))
	return err
}

// tablesOf leaves the tables of some pools, all if none is named.
func tablesOf(all []config.EffectiveTable, pools []string) ([]config.EffectiveTable, error) {
	if len(pools) == 0 {
		return all, nil
	}
	var some []config.EffectiveTable
	for _, name := range pools {
		before := len(some)
		for _, t := range all {
			if len(t.Path) > 1 && t.Path[0] == "pool" && t.Path[1] == name {
				some = append(some, t)
			}
		}
		if len(some) == before {
			return nil, fmt.Errorf("there is no pool %q: there are %s", name, strings.Join(poolsOf(all), ", "))
		}
	}
	return some, nil
}

// poolsOf are the names of the pools.
func poolsOf(all []config.EffectiveTable) []string {
	var names []string
	for _, t := range all {
		if len(t.Path) == 2 && t.Path[0] == "pool" {
			names = append(names, t.Path[1])
		}
	}
	return names
}

// maxColumn bounds where the comments begin, so that one long line does not move all.
const maxColumn = 40

// shownText writes the tables as a file with comments.
func shownText(files []string, tables []config.EffectiveTable, paint painter) string {
	var b strings.Builder
	for _, name := range files {
		b.WriteString(paint.paint(styleDim, comment("# from "+name)) + "\n")
	}
	for _, t := range tables {
		b.WriteString("\n")
		if header := t.Header(); header != "" {
			b.WriteString(paint.paint(styleGreen, header) + "\n")
		}
		column := 0
		for _, s := range t.Settings {
			if n := len([]rune(s.TOML())); n <= maxColumn {
				column = max(column, n)
			}
		}
		for _, s := range t.Settings {
			fmt.Fprintf(&b, "%-*s  %s\n", column, s.TOML(), paint.paint(styleDim, comment("# "+origin(s))))
		}
	}
	return b.String()
}

// comment keeps names of files with strange characters on their line.
func comment(text string) string {
	return string(printable([]byte(strings.NewReplacer("\n", "?", "\r", "?", "\x1b", "?").Replace(text))))
}

// origin says where a value is from.
func origin(s config.Setting) string {
	text := "built-in"
	if s.At != nil {
		text = fmt.Sprintf("%s:%d", s.At.File, s.At.Line)
	}
	if s.From == config.FromDefaults {
		text += " [defaults]"
	}
	if s.Why != "" {
		text += ": " + s.Why
	}
	for i, o := range s.Over {
		text += map[bool]string{true: ", not ", false: " or "}[i == 0] + fmt.Sprintf("%s:%d", o.File, o.Line)
	}
	return text
}

// shownConfig is what `config show --json` prints.
type shownConfig struct {
	Files   []string               `json:"files"`
	Config  map[string]any         `json:"config"`
	Origins map[string]shownOrigin `json:"origins"` // by the whole key, as TOML writes it
}

type shownOrigin struct {
	From string       `json:"from"` // "file", "defaults" or "built-in"
	Why  string       `json:"why,omitempty"`
	At   *shownPlace  `json:"at,omitempty"`
	Over []shownPlace `json:"over,omitempty"`
}

type shownPlace struct {
	File   string `json:"file"`
	Line   int    `json:"line"`
	Column int    `json:"column"`
}

func shownJSON(files []string, tables []config.EffectiveTable) shownConfig {
	out := shownConfig{Files: files, Config: map[string]any{}, Origins: map[string]shownOrigin{}}
	for _, t := range tables {
		at := out.Config
		for _, part := range t.Path {
			if at[part] == nil {
				at[part] = map[string]any{}
			}
			at = at[part].(map[string]any)
		}
		for _, s := range t.Settings {
			at[s.Key] = s.Value()
			o := shownOrigin{From: string(s.From), Why: s.Why}
			if s.At != nil {
				place := shownPlace(*s.At)
				o.At = &place
			}
			for _, p := range s.Over {
				o.Over = append(o.Over, shownPlace(p))
			}
			out.Origins[t.Whole(s)] = o
		}
	}
	return out
}
