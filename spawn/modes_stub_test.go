package spawn
func orphansMode([]string) int {return 0}
func poisonMode([]string) int {return 0}
func seccompMode([]string) int {return 0}
func noFilesMode([]string) int {return 0}
func noProcessesMode([]string) int {return 0}
func noHelperMode([]string) int {return 0}
