"""Named metrics per component, whatever they are measured with."""
