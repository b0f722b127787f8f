"""Which dimensions a model needs: masking them one by one, exhaustively or by estimate."""
