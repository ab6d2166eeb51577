"""What a pretrained model is for: tasks with a head, a loss, data and a metric of their own."""
