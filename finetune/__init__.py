"""Programs on converted weights: fine-tuning, probing, embedding, and what they share."""
