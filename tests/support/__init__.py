"""What several test modules share: images, bundles, servers, and runs of the command."""
