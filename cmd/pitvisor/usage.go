package main

import (
	"errors"
	"fmt"
	"strings"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"

	"github.com/pitvisor/pitvisor/internal/exit"
	"github.com/pitvisor/pitvisor/internal/runverb"
)

// seeHelp is the way out of a wrong command line.
func seeHelp(cmd *cobra.Command) string { return "see `" + cmd.CommandPath() + " --help`" }

// takes checks the number of arguments; most is -1 for any.
func takes(least, most int) cobra.PositionalArgs {
	return func(cmd *cobra.Command, args []string) error {
		switch {
		case len(args) < least:
			usage := strings.TrimSuffix(cmd.UseLine(), " [flags]")
			return failHint(exitUsage, fmt.Errorf("an argument is missing: write %s", usage), seeHelp(cmd))
		case most == 0 && len(args) > 0 && cmd.HasSubCommands():
			return failHint(exitUsage, fmt.Errorf("unknown command %q for %q", args[0], cmd.CommandPath()), seeHelp(cmd))
		case most >= 0 && len(args) > most:
			hint := seeHelp(cmd)
			if f := cmd.Flags().Lookup("file"); most == 0 && f != nil && !f.Changed {
				hint = fmt.Sprintf("a configuration is named with -f: %s -f %s", cmd.CommandPath(), args[0])
			}
			return failHint(exitUsage, fmt.Errorf("%s does not take the argument %q", cmd.CommandPath(), args[most]), hint)
		}
		return nil
	}
}

// flagError says what is wrong with a flag.
func flagError(cmd *cobra.Command, err error) error {
	var value *pflag.InvalidValueError
	if errors.As(err, &value) {
		err = fmt.Errorf("--%s %q %w", value.GetFlag().Name, value.GetValue(), runverb.WhyWrong(value))
	}
	return failHint(exitUsage, err, seeHelp(cmd))
}

// cobrasOwn makes the commands that cobra adds refuse what they do not know.
func cobrasOwn(root *cobra.Command) {
	root.InitDefaultHelpCmd()
	help, _, _ := root.Find([]string{"help"}) // it is there
	help.Args = func(_ *cobra.Command, args []string) error {
		if _, _, err := root.Find(args); err != nil {
			return unknownCommand(root, err)
		}
		return nil
	}
	root.InitDefaultCompletionCmd()
	cmd, _, _ := root.Find([]string{"completion"}) // it is there
	cmd.Args = takes(0, 1)
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		if len(args) == 0 {
			return cmd.Help()
		}
		return failHint(exitUsage, fmt.Errorf("there is no completion for the shell %q", args[0]), seeHelp(cmd))
	}
}

// completeFlag completes the values of a flag.
func completeFlag(cmd *cobra.Command, flag string, values ...string) {
	_ = cmd.RegisterFlagCompletionFunc(flag, cobra.FixedCompletions(values, cobra.ShellCompDirectiveNoFileComp)) // the flag exists
}

// unknownCommand adds to an error that a verb does not exist which is meant.
func unknownCommand(root *cobra.Command, err error) error {
	var coded *exit.Error
	if err == nil || errors.As(err, &coded) {
		return err // not cobra's
	}
	var name string
	if _, scanErr := fmt.Sscanf(err.Error(), "unknown command %q", &name); scanErr != nil {
		return err
	}
	err = fmt.Errorf("unknown command %q for %q", name, root.CommandPath())
	if like := root.SuggestionsFor(name); len(like) > 0 {
		return failHint(exitUsage, err, "did you mean "+strings.Join(like, " or ")+"?")
	}
	return failHint(exitUsage, err, seeHelp(root))
}

// exclusive words cobra's error of flags that exclude each other.
func exclusive(err error) error {
	if err == nil {
		return nil
	}
	_, set, _ := strings.Cut(err.Error(), "none of the others can be; [")
	set, _, ok := strings.Cut(set, "] were all set")
	if !ok {
		return err
	}
	return fail(exitUsage, fmt.Errorf("--%s exclude each other", strings.Join(strings.Fields(set), " and --")))
}

// completeSettled lets the arguments of a command, and of those below it, be completed with
// its flags as they will be, which are those of the environment where they are not given.
func completeSettled(cmd *cobra.Command) {
	for _, below := range cmd.Commands() {
		completeSettled(below)
	}
	complete := cmd.ValidArgsFunction
	if complete == nil {
		return
	}
	cmd.ValidArgsFunction = func(cmd *cobra.Command, args []string, begun string) ([]string, cobra.ShellCompDirective) {
		if runverb.Settle(cmd.Flags()) != nil {
			return nil, cobra.ShellCompDirectiveNoFileComp // as it would be refused
		}
		return complete(cmd, args, begun)
	}
}
