package probe

// FileWatcher is one inotify instance shared by all pools.
type FileWatcher struct{}

// NewFileWatcher returns a watcher that holds nothing until it is used.
func NewFileWatcher() *FileWatcher { return &FileWatcher{} }
