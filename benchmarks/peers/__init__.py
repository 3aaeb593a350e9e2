"""The same measurements of other libraries. These files import neither Keras nor sota_dqn: any interpreter may do."""
