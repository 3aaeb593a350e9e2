"""Slow, obvious NumPy versions of the mathematics, one sample at a time, for the library to agree with."""

import numpy as np


def n_step(reward, terminated, valid, n, discount):
    """The return, its discount and its length, of one window that starts at the drawn row."""
    total, length = 0.0, 0
    while length < n and valid[length]:
        total += discount**length * reward[length]
        length += 1
        if terminated[length - 1]:
            return total, 0.0, length
    return total, discount**length, length


def lower_bound(reward, terminated, valid, values, horizons, discount, return_to_go=-np.inf):
    """`values[i]` is the value of the observation in row i of the window."""
    bounds = [return_to_go]
    for k in range(1, horizons + 1):
        total, factor, length = n_step(reward, terminated, valid, k + 1, discount)
        bounds.append(total + factor * values[length])
    return max(bounds)


def upper_bound(reward, terminated, connected, values, discount):
    """`values[i]` is the value of the action taken in row i of the past, oldest first."""
    num_past = len(reward)
    bounds = [np.inf]
    for k in range(1, num_past):
        first = num_past - 1 - k
        if connected[first] and not any(terminated[first:]):
            bound = values[first]
            for row in range(first, num_past):  # Q(s, a) = r + gamma Q(s', a'), solved for the later state
                bound = (bound - reward[row]) / discount
            bounds.append(bound)
    return min(bounds)


def double(values, target_values):
    return target_values[int(np.argmax(values))]


def mellowmax(values, omega):
    return np.log(np.mean(np.exp(omega * np.asarray(values, "float64")))) / omega


def expected_sarsa(values, target_values, epsilon):
    probabilities = np.full(len(values), epsilon / len(values))
    probabilities[int(np.argmax(values))] += 1 - epsilon
    return sum(probability * value for probability, value in zip(probabilities, target_values, strict=True))


def squared(target, q):
    return (target - q) ** 2


def huber(target, q):
    error = abs(target - q)
    return 0.5 * error**2 if error <= 1 else error - 0.5


def lower_bound_penalty(q, target, lower, upper, weight, loss=huber):
    """`loss` to the average of the target, with weight 1, and of the violated bounds, with weight `weight`."""
    points, weights = [target], [1.0]
    for bound, violated in ((lower, q < lower), (upper, q > upper)):
        if violated:
            points.append(bound)
            weights.append(weight)
    return loss(np.average(points, weights=weights), q)


def linear_lower_bound_penalty(q, target, lower, loss=huber):
    violation = max(0.0, lower - q)
    return violation if violation > 0 else loss(target, q)


def boltzmann(values, temperature):
    """The probability of each action."""
    weights = np.exp((np.asarray(values, "float64") - max(values)) / temperature)
    return weights / np.sum(weights)


def squash(x, epsilon):
    return np.sign(x) * (np.sqrt(abs(x) + 1) - 1) + epsilon * x


def unsquash(x, epsilon):
    root = (np.sqrt(1 + 4 * epsilon * (abs(x) + 1 + epsilon)) - 1) / (2 * epsilon)
    return np.sign(x) * (root**2 - 1)
