"""Why a model cannot be exported: the known causes, where in the user's source they are, and what to do about them."""
