"""Components that come with the library, offered through the hooks that plug-ins use."""
