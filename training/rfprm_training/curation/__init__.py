"""From raw traces of any common format to trajectories worth labelling; a report on the rest."""
