"""Real clusters: what deploy/ starts is started, on hosts that are namespaces or processes of this machine."""
