"""Evolution when no runtime answers: its outcome goes to files, for a consumer that reloads them."""
