"""The fallback of evolution if no runtime answers: weights and kernels are published as files for a consumer."""
